"""Text classification: the loss does not depend on the split or on padding, answers are probabilities."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DistilBertConfig, DistilBertModel, LlamaConfig, LlamaModel

from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import locate
from regraft.contracts import Context, Example, Row
from regraft.errors import DataError, Unsupported
from regraft.tasks.inputs.text import MeanPooledClassifier, masked_mean
from regraft.tasks.text_classification import TextClassification
from support.tiny import tiny_bert

LABELS = ("entry", "light", "money")
ROWS: list[Row] = [
    {"row": 0, "text": "the lamp is off", "label": "light"},
    {"row": 1, "text": "my invoice and the refund of my old account", "label": "money"},
    {"row": 2, "text": "password", "label": "entry"},
    {"row": 3, "text": "why is the new bulb blue please help", "label": "light"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def loader(folder: Path) -> BaseLoader:
    return BaseLoader(locate(str(folder)))


@pytest.fixture(scope="module")
def context(folder: Path, loader: BaseLoader) -> Context:
    return Context(processor=load_processor(locate(str(folder)), "text"), labels=LABELS, config=loader.config)


def encoded(task: TextClassification, context: Context, rows: list[Row] = ROWS) -> list[Example]:
    return [task.encode(row, context, train=True) for row in rows]


def logits_of(model: torch.nn.Module, task: TextClassification, examples: list[Example], context: Context) -> Tensor:
    batch = task.collate(examples, context)
    with torch.no_grad():
        logits: Tensor = model.eval()(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return logits


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model with larger weights: with initial ones every text would get nearly the same logits."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)
    return model


def output(logits: Tensor) -> Any:
    return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0]])
def test_the_loss_is_torchs_mean_however_rows_are_split(
    smoothing: float, weights: list[float] | None, context: Context
) -> None:
    weight = None if weights is None else torch.tensor(weights)
    context = Context(context.processor, LABELS, context.config, weight, smoothing)
    logits, labels = torch.randn(32, 3) * 3, torch.randint(3, (32,))
    task = TextClassification()
    expected = F.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    for cuts in ([32], [1, 31], [8] * 4, [5, 0, 27]):
        parts = [
            task.loss(output(some), {"labels": true}, context)
            for some, true in zip(torch.split(logits, cuts), torch.split(labels, cuts), strict=True)
        ]
        mean = sum(part[0] for part in parts) / sum(part[1] for part in parts)
        assert mean == pytest.approx(expected.item(), rel=1e-6)


def test_the_reported_loss_is_the_one_that_is_minimised(context: Context) -> None:
    context = Context(context.processor, LABELS, context.config, torch.tensor([1.0, 2.0, 3.0]), 0.1)
    task, logits, batch = TextClassification(), torch.randn(9, 3), {"labels": torch.arange(9) % 3}
    total, weight = task.loss(output(logits), batch, context)
    metrics = task.metrics(task.records(output(logits), batch, context), context)
    assert metrics["loss"] == pytest.approx((total / weight).item(), rel=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_change_logits(pooling: Any, loader: BaseLoader, context: Context) -> None:
    torch.manual_seed(0)
    task = TextClassification(pooling=pooling)
    model, examples = sharpened(task.build(loader, LABELS)), encoded(task, context)
    together = logits_of(model, task, examples, context)
    alone = torch.cat([logits_of(model, task, [example], context) for example in examples])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert together.std(0).min() > 0.01


def test_padding_does_not_change_logits_of_a_decoder_without_a_padding_id(tmp_path: Path, context: Context) -> None:
    torch.manual_seed(0)
    small = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=59
    )
    LlamaModel(small).save_pretrained(tmp_path)
    task = TextClassification()
    model = sharpened(task.build(BaseLoader(locate(str(tmp_path))), LABELS))
    context = Context(context.processor, LABELS, model.config)
    examples = [{name: ids for name, ids in row.items() if name != "token_type_ids"} for row in encoded(task, context)]
    together = logits_of(model, task, examples, context)
    alone = torch.cat([logits_of(model, task, [example], context) for example in examples])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert together.std(0).min() > 0.01


def test_a_batch_is_padded_to_its_longest_text_only(context: Context) -> None:
    task = TextClassification()
    examples = encoded(task, context)
    batch = task.collate(examples, context)
    assert batch["input_ids"].shape == (4, max(len(example["input_ids"]) for example in examples))
    assert batch["attention_mask"].sum(1).tolist() == [len(example["input_ids"]) for example in examples]
    assert batch["labels"].tolist() == [1, 2, 0, 1]


def test_the_mean_ignores_padding() -> None:
    states, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    pooled = masked_mean(states, mask)
    torch.testing.assert_close(pooled[0], states[0, :3].mean(0))
    assert pooled[1].tolist() == [0, 0, 0, 0]


def test_auto_pools_as_the_base_says(folder: Path, loader: BaseLoader, tmp_path: Path) -> None:
    assert isinstance(TextClassification().build(loader, LABELS), MeanPooledClassifier)
    assert not isinstance(TextClassification(pooling="cls").build(loader, LABELS), MeanPooledClassifier)
    other = BaseLoader(locate(str(tiny_bert(tmp_path / "cls", pooling="cls"))))
    assert not isinstance(TextClassification().build(other, LABELS), MeanPooledClassifier)
    assert isinstance(TextClassification(pooling="mean").build(other, LABELS), MeanPooledClassifier)


def test_every_weight_of_a_mean_pooled_model_gets_a_gradient(loader: BaseLoader, context: Context) -> None:
    task = TextClassification(pooling="mean")
    model, batch = task.build(loader, LABELS), task.collate(encoded(task, context), context)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    total, weight = task.loss(model(**inputs), batch, context)
    torch.autograd.backward(total / weight)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert isinstance(model, MeanPooledClassifier) and model.config.num_labels == 3
    assert model.config.id2label == dict(enumerate(LABELS))


def test_mean_pooling_works_where_the_base_has_no_pooler(tmp_path: Path, folder: Path, context: Context) -> None:
    small = DistilBertConfig(vocab_size=60, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=64)
    DistilBertModel(small).save_pretrained(tmp_path)
    task = TextClassification(pooling="mean")
    model = task.build(BaseLoader(locate(str(tmp_path))), LABELS)
    examples = [{name: ids for name, ids in row.items() if name != "token_type_ids"} for row in encoded(task, context)]
    assert logits_of(model, task, examples, context).shape == (4, 3)


def test_a_long_text_is_cut_at_max_length(context: Context) -> None:
    row: Row = {"row": 0, "text": "lamp " * 500, "label": "light"}
    assert len(TextClassification(max_length=12).encode(row, context, train=True)["input_ids"]) == 12
    assert len(TextClassification().encode(row, context, train=True)["input_ids"]) == 64


def test_more_tokens_than_the_base_reads_are_refused(loader: BaseLoader) -> None:
    with pytest.raises(Unsupported, match="65 is written; this base reads 2 to 64 tokens"):
        TextClassification(max_length=65).build(loader, LABELS)


def test_rows_without_labels_make_a_batch_without_labels(context: Context) -> None:
    task = TextClassification()
    assert "labels" not in task.collate([task.encode({"text": "lamp"}, context, train=False)], context)


def test_a_label_the_model_does_not_know_is_named(context: Context) -> None:
    with pytest.raises(DataError, match="row 7: label 'dark' is written; the model knows: entry, light, money"):
        TextClassification().encode({"row": 7, "text": "lamp", "label": "dark"}, context, train=True)


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_text_is_a_bad_row(text: str) -> None:
    assert "empty" in str(TextClassification().check({"text": text}))
    assert TextClassification().check({"text": "lamp"}) is None


def test_answers_are_sorted_probabilities(context: Context) -> None:
    for answer in TextClassification().answers(output(torch.randn(6, 3) * 4), {}, context):
        scores = [entry["score"] for entry in answer["scores"]]
        assert scores == sorted(scores, reverse=True) and math.fsum(scores) == pytest.approx(1, abs=1e-12)
        assert {entry["label"] for entry in answer["scores"]} == set(LABELS)
        assert (answer["label"], answer["score"]) == (answer["scores"][0]["label"], scores[0])


def test_metrics_count_what_was_right(context: Context) -> None:
    task, logits = TextClassification(), torch.eye(3)[[0, 1, 1, 1]] * 9
    records = task.records(output(logits), {"labels": torch.tensor([0, 1, 1, 0])}, context)
    metrics = task.metrics(records, context)
    assert [record["correct"] for record in records] == [1, 1, 1, 0]
    assert metrics["accuracy"] == 0.75
    assert metrics["balanced_accuracy"] == 0.75
    assert metrics["f1"] == pytest.approx((2 / 3 + 0.8) / 2)
