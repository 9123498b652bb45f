"""Pairs of texts: joined as the tokenizer does, both read, whatever the base's family."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import BertConfig, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from regraft.bases.load import BaseLoader
from regraft.bases.locate import locate
from regraft.contracts import Context, Row
from regraft.errors import DataError
from regraft.serving.row_checks import check_rows
from regraft.tasks.text_pair_classification import TextPairClassification
from regraft.tasks.text_pair_regression import TextPairRegression
from support.tiny import SPECIAL, WORDS, tokenizer_of

LABELS = ("other", "same")
TASK = TextPairClassification()
ROW: Row = {"row": 0, "text": "the lamp is off", "pair": "light", "label": "same"}
SMALL: Any = {"vocab_size": 64, "max_position_embeddings": 40}


@pytest.fixture(scope="module")
def context() -> Context:
    """Return a context with a tokenizer that has a template for pairs, as BERT's."""
    tokenizer = tokenizer_of(SPECIAL + WORDS)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return Context(tokenizer, LABELS, BertConfig(**SMALL))


def words(example: dict[str, Any], context: Context) -> list[str]:
    found: list[str] = context.processor.convert_ids_to_tokens(example["input_ids"])
    return found


def test_the_tokenizers_own_form_for_pairs_is_used(context: Context) -> None:
    example = TASK.encode(ROW, context, train=True)
    assert words(example, context) == ["[CLS]", "the", "lamp", "is", "off", "[SEP]", "light", "[SEP]"]
    assert example["token_type_ids"] == [0] * 6 + [1] * 2
    assert example["labels"] == 1
    assert TASK.collate([example, example], context)["labels"].tolist() == [1, 1]


@pytest.mark.parametrize(("first", "second"), [(100, 5), (5, 100), (100, 100)])
def test_both_texts_are_read_however_long_one_of_them_is(first: int, second: int, context: Context) -> None:
    row: Row = {"row": 0, "text": "lamp " * first, "pair": "bulb " * second}
    read = words(TextPairClassification(max_length=20).encode(row, context, train=False), context)
    assert len(read) == 20
    assert read.count("lamp") >= min(first, 8) and read.count("bulb") >= min(second, 8)


@pytest.mark.parametrize(("first", "second"), [(9, 12), (12, 9), (9, 9), (3, 12)])
@pytest.mark.parametrize("length", [16, 17])
def test_cutting_early_does_not_change_what_is_read(first: int, second: int, length: int, context: Context) -> None:
    row: Row = {"row": 0, "text": " ".join(WORDS * first), "pair": " ".join(reversed(WORDS * second))}
    plain = context.processor(row["text"], row["pair"], truncation=True, max_length=length)
    found = TextPairClassification(max_length=length).encode(row, context, train=False)
    assert found["input_ids"] == plain["input_ids"]


def test_two_documents_are_not_cut_in_every_combination_of_their_parts(context: Context) -> None:
    row: Row = {"row": 0, "text": "lamp " * 10_000, "pair": "bulb " * 10_000}
    began = time.process_time()
    TextPairClassification(max_length=20).encode(row, context, train=False)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, **SMALL), DistilBertModel),
        (
            RobertaConfig(
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                type_vocab_size=1,
                pad_token_id=0,
                **SMALL,
            ),
            RobertaModel,
        ),
    ],
    ids=["no such argument", "one type only"],
)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_bases_that_know_one_type_of_text_read_pairs(
    config: Any, model: Any, pooling: Any, context: Context, tmp_path: Path
) -> None:
    model(config).save_pretrained(tmp_path)
    task = TextPairRegression(pooling=pooling)
    built = task.build(BaseLoader(locate(str(tmp_path))), ())
    context = Context(context.processor, (), config)
    batch = task.collate([task.encode(ROW, context, train=False)], context)
    assert "token_type_ids" not in batch
    assert built(**batch).logits.shape == (1, 1)


@pytest.mark.parametrize("name", ["text", "pair"])
def test_an_empty_text_of_the_two_is_named(name: str) -> None:
    assert str(TASK.check({**ROW, name: " "})).startswith(f"{name} is empty")
    assert TASK.check(ROW) is None


def test_rows_of_one_costs_what_both_texts_have() -> None:
    assert TASK.length(ROW) == len("the lamp is off") + len("light")


def test_a_bare_string_is_no_pair() -> None:
    with pytest.raises(DataError, match=r"row is \{'text': ..., 'pair': ...\}"):
        check_rows(TASK, ["lamp"])


def test_logits_depend_on_both_texts(context: Context, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, initializer_range=1.0, **SMALL)
    DistilBertModel(config).save_pretrained(tmp_path)
    model = TASK.build(BaseLoader(locate(str(tmp_path))), LABELS).eval()
    context = Context(context.processor, LABELS, config)
    rows = [ROW, {**ROW, "text": "my invoice"}, {**ROW, "pair": "refund"}]
    batches = [TASK.collate([TASK.encode({**row, "label": None}, context, train=False)], context) for row in rows]
    with torch.no_grad():
        first, other_text, other_pair = (model(**batch).logits for batch in batches)
    assert not torch.allclose(first, other_text) and not torch.allclose(first, other_pair)
