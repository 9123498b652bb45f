"""An exported folder gives other libraries the same logits, and appears atomically."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from regraft import plugins
from regraft.contracts import Task
from regraft.errors import NotFound, RequestError, Unsupported
from regraft.serving.export import Exported, export
from regraft.serving.predictor import Predictor
from unit.serving.tiny import CASES, LABELS, TASKS, TEXTS, alone, publish, rows_of


def by_transformers(out: Exported, task: str, rows: list[str], made: Any) -> Tensor:
    """Compute logits from the folder by transformers alone; regraft only resizes the task's images."""
    task_of = Task.lookup(task)
    model = getattr(transformers, task_of.auto).from_pretrained(out.folder).eval()
    assert model.config.id2label == dict(enumerate(LABELS[task]))
    assert model.config.label2id == {label: number for number, label in enumerate(LABELS[task])}
    logits = []
    for row in rows:
        if task_of.modality == "text":
            inputs = transformers.AutoTokenizer.from_pretrained(out.folder)(row, truncation=True, return_tensors="pt")
        else:
            transformers.AutoImageProcessor.from_pretrained(out.folder, backend="pil")
            example = made.task.encode({"image": row}, made.context, train=False)
            inputs = {
                name: part for name, part in made.task.collate([example], made.context).items() if name != "labels"
            }
        with torch.inference_mode():
            logits.append(model(**inputs).logits[0])
    return torch.stack(logits)


def by_sentence_transformers(out: Exported, rows: list[str]) -> Tensor:
    """Compute logits as the export's note describes."""
    encoder = SentenceTransformer(str(out.folder), device="cpu")
    head = load_file(out.folder / "head.safetensors")
    embeddings = encoder.encode(rows, convert_to_tensor=True, show_progress_bar=False)
    assert json.loads((out.folder / "head.json").read_text())["labels"] == list(LABELS["text-classification"])
    return torch.nn.functional.linear(embeddings, head["weight"], head["bias"])


@pytest.mark.parametrize("kind, method", CASES)
def test_another_library_gives_the_same_logits(
    kind: str, method: Any, store: Path, bases: dict[str, Path], pictures: list[str], tmp_path: Path
) -> None:
    _, made = publish(store, bases[kind], TASKS[kind], method)
    column, rows = rows_of(kind, pictures)
    wanted = torch.stack([alone(made, column, row) for row in rows])
    out = export(str(store), "tiny", tmp_path / "out")
    assert out.kind == ("sentence-transformers" if kind == "mean" else "transformers")
    assert {path.suffix for path in out.folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".md", ".txt"}
    found = by_sentence_transformers(out, rows) if kind == "mean" else by_transformers(out, TASKS[kind], rows, made)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture
def published(store: Path, bases: dict[str, Path]) -> Path:
    publish(store, bases["cls"], "text-classification", "lora")
    return store


def test_the_card_speaks_of_the_library_that_reads_the_folder(published: Path, tmp_path: Path) -> None:
    out = export(str(published), "tiny", tmp_path / "out")
    data: Any = ModelCard.load(out.folder / "README.md").data
    assert data.library_name == out.kind == "transformers"
    text = (out.folder / "README.md").read_text()
    assert 'pipeline("text-classification", folder, truncation=True)' in text and "regraft.load" not in text
    assert "AutoModelForSequenceClassification.from_pretrained" in out.note


def test_the_configuration_tells_nothing_of_this_machine(
    published: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = export(str(published), "tiny", tmp_path / "out").folder
    for path in folder.glob("*.json"):
        assert str(bases["cls"].parent) not in path.read_text(), path.name


def test_the_sentence_encoder_reads_as_many_tokens_as_the_task(
    store: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    _, made = publish(store, bases["mean"], {"type": "text-classification", "max_length": 12}, "full")
    out = export(str(store), "tiny", tmp_path / "out")
    assert "head.safetensors" in out.note
    assert json.loads((out.folder / "0_Transformer" / "sentence_bert_config.json").read_text())["max_seq_length"] == 12
    wanted = torch.stack([alone(made, "text", text) for text in TEXTS])
    torch.testing.assert_close(by_sentence_transformers(out, TEXTS), wanted, rtol=1e-5, atol=1e-5)


def test_a_model_stays_usable_where_it_was(published: Path, tmp_path: Path) -> None:
    before = Predictor.open(str(published), "tiny", device="cpu").logits(TEXTS)
    export(str(published), "tiny", tmp_path / "out")
    assert torch.equal(Predictor.open(str(published), "tiny", device="cpu").logits(TEXTS), before)


def test_a_folder_with_something_in_it_is_left_alone(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        export(str(published), "tiny", out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert (export(str(published), "tiny", out).folder / "model.safetensors").is_file()


def test_what_fails_leaves_nothing_behind(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full_disk)
    with pytest.raises(RequestError, match="No space left"):
        export(str(published), "tiny", tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())
    with pytest.raises(NotFound):
        export(str(published), "tinny", tmp_path / "out")
    assert not (tmp_path / "out").exists()


OWN = '''
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from regraft.contracts import Kind, Score, Task
from regraft.tasks.text_classification import TextClassification as Platform


class Last(nn.Module):
    """Like a mean-pooled classifier, but for what it reads: the largest state."""

    base_model_prefix = "base"

    def __init__(self, base, labels):
        super().__init__()
        self.base, self.config, self.classifier = base, base.config, nn.Linear(base.config.hidden_size, len(labels))

    def forward(self, **inputs):
        return SequenceClassifierOutput(logits=self.classifier(self.base(**inputs).last_hidden_state.amax(1)))


class ByMaximum(Platform):
    """Another pooling."""

    def build(self, load, labels):
        return Last(load("AutoModel", add_pooling_layer=False), labels)
'''


def test_another_pooling_is_not_passed_off_as_the_mean(
    store: Path, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_folders", [])
    (tmp_path / "own" / "tasks").mkdir(parents=True)
    (tmp_path / "own" / "tasks" / "by_maximum.py").write_text(OWN)
    plugins.add_folder(tmp_path / "own")
    publish(store, bases["mean"], "by-maximum", "full")
    assert Predictor.open(str(store), "tiny", device="cpu").predict(["a"])
    with pytest.raises(Unsupported, match=r"use it by regraft\.load"):
        export(str(store), "tiny", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_on_the_screen(published: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(str(published), "tiny", tmp_path / "out")
        Predictor.open(str(published), "tiny", device="cpu").predict(TEXTS)
    assert capfd.readouterr() == ("", "")
