"""Tasks of pairs, several labels and numbers: trained, opened again, and exported with the same answers."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from regraft.errors import Diverged
from regraft.serving.export import Exported, export
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.registration import Outcome
from regraft.training.session import train_local
from support.image_bases import coloured, tiny_resnet
from support.processes import on_ranks
from support.tiny import TOPICS, WORDS, tiny_bert


def texts(path: Path, rows: int, *, seed: int) -> Path:
    """Topic words decide the labels, how many of them there are the numbers, a shared topic whether a pair matches."""
    draw, topics = random.Random(seed), sorted(TOPICS)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "pair", "label", "labels", "share", "price", "alike"])
        for _ in range(rows):
            said = sorted(draw.sample(topics, k=draw.randint(0, 2)))
            words = draw.choices(WORDS[16:], k=3) + [
                word for topic in said for word in draw.choices(TOPICS[topic], k=2)
            ]
            count = draw.randint(0, 4)
            words += ["help"] * count
            other = draw.choice(topics)
            label = "same" if other in said else "other"
            row = [" ".join(words), " ".join(draw.choices(TOPICS[other], k=3)), label, json.dumps(said)]
            out.writerow([*row, count / 4, 3000 + 600 * count, float(label == "same")])
    return path


def document(folder: Path, task: Any, *, pooling: str = "mean", rows: int = 48, **training: Any) -> dict[str, Any]:
    tiny_bert(folder / "base", pooling=pooling)
    return {
        "name": "tiny",
        "base": str(folder / "base"),
        "task": task,
        "method": "full",
        "data": {
            "train": str(texts(folder / "train.csv", rows, seed=1)),
            "eval": str(texts(folder / "eval.csv", 24, seed=2)),
        },
        "training": {"epochs": 2, "batch_size": 8, "lr": 3e-3, "baselines": False, **training},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


TEXT_TASKS = [
    pytest.param({"type": "text-pair-classification"}, id="pairs"),
    pytest.param({"type": "text-multi-label"}, id="labels"),
    pytest.param({"type": "text-regression", "targets": ["share", "price"]}, id="numbers"),
    pytest.param({"type": "text-pair-regression", "targets": ["alike"]}, id="alike"),
]
ROWS = [
    {"text": "the lamp is off help help", "pair": "light bulb"},
    {"text": "invoice", "pair": "my refund of the old account please"},
]


def asked(predictor: Predictor) -> list[dict[str, str]]:
    wanted = {"text", "pair"} & set(predictor.adapted.task.input_columns())
    return [{name: row[name] for name in sorted(wanted)} for row in ROWS]


def by_another_library(out: Exported, rows: list[dict[str, str]], auto: str) -> torch.Tensor:
    """The folder's logits without any of regraft's code."""
    given: Any = [tuple(row[name] for name in ("text", "pair") if name in row) for row in rows]
    if out.kind == "transformers":
        tokenizer = transformers.AutoTokenizer.from_pretrained(out.folder)
        model = getattr(transformers, auto).from_pretrained(out.folder).eval()
        with torch.inference_mode():
            return torch.stack([model(**tokenizer(*texts, return_tensors="pt")).logits[0] for texts in given])
    encoder, head = SentenceTransformer(str(out.folder), device="cpu"), load_file(out.folder / "head.safetensors")
    given = [texts[0] if len(texts) == 1 else texts for texts in given]
    embeddings = encoder.encode(given, convert_to_tensor=True, show_progress_bar=False)
    return torch.nn.functional.linear(embeddings, head["weight"], head["bias"])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("task", TEXT_TASKS)
def test_what_was_trained_answers_alike_wherever_it_is_loaded(
    task: dict[str, Any], pooling: str, tmp_path: Path
) -> None:
    spec = RunSpec.resolve(document(tmp_path, task, pooling=pooling, rows=16, epochs=1))
    outcome = train_local(spec)
    predictor = Predictor.open(spec.store, "tiny")
    rows = asked(predictor)
    logits = predictor.logits(rows)
    out = export(spec.store, "tiny", tmp_path / "out")
    assert out.kind == ("sentence-transformers" if pooling == "mean" else "transformers")
    found = by_another_library(out, rows, spec.task.auto)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
    assert len(predictor.predict(rows)) == len(rows) and spec.task.score.name in outcome.metrics
    names = predictor.labels or tuple(task["targets"])
    config = transformers.AutoConfig.from_pretrained(out.folder / ("0_Transformer" if pooling == "mean" else "."))
    assert tuple(config.id2label.values()) == names and config.problem_type == spec.task.problem  # type: ignore[attr-defined]
    if pooling == "mean":
        assert json.loads((out.folder / "head.json").read_text())["labels"] == list(names)


def test_the_scale_of_the_targets_is_that_of_the_training_rows_and_is_kept(tmp_path: Path) -> None:
    spec = RunSpec.resolve(document(tmp_path, {"type": "text-regression", "targets": ["share", "price"]}, epochs=1))
    train_local(spec)
    with (tmp_path / "train.csv").open() as file:
        prices = np.array([float(row["price"]) for row in csv.DictReader(file)])
    task: Any = Predictor.open(spec.store, "tiny").adapted.task
    assert task.mean[1] == pytest.approx(prices.mean()) and task.deviation[1] == pytest.approx(prices.std())
    assert spec.task.model_dump()["mean"] is None


def trained(folder: Path, factor: float) -> Outcome:
    written = document(folder, {"type": "text-regression", "targets": ["price"]}, epochs=4)
    for side in ("train", "eval"):
        with (folder / f"{side}.csv").open() as file:
            rows = list(csv.DictReader(file))
        with (folder / f"{side}.csv").open("w", newline="") as file:
            out = csv.DictWriter(file, rows[0].keys())
            out.writeheader()
            out.writerows({**row, "price": float(row["price"]) * factor} for row in rows)
    return train_local(RunSpec.resolve(written))


def test_the_unit_of_a_target_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    cents, thousands = trained(tmp_path / "a", 1.0), trained(tmp_path / "b", 1e-5)
    assert cents.metrics["loss"] == pytest.approx(thousands.metrics["loss"], rel=1e-3)
    assert cents.metrics["rmse"] == pytest.approx(1e5 * thousands.metrics["rmse"], rel=1e-3)
    assert cents.metrics["r2"] > 0


def test_a_run_that_resumes_keeps_the_scale(tmp_path: Path) -> None:
    written = document(tmp_path, {"type": "text-regression", "targets": ["price"]}, rows=16, epochs=1)
    first = train_local(RunSpec.resolve(written))
    again = train_local(RunSpec.resolve(written))
    assert again.already and again.version == first.version and again.metrics == first.metrics


def test_balanced_weights_raise_the_recall_of_rare_labels(tmp_path: Path) -> None:
    plain = train_local(RunSpec.resolve(document(tmp_path / "a", "text-multi-label")))
    weighted = train_local(RunSpec.resolve(document(tmp_path / "b", "text-multi-label", class_weights="balanced")))
    assert plain.metrics != weighted.metrics
    assert weighted.metrics["f1_macro"] > plain.metrics["f1_macro"]


@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_an_image_has_labels_or_numbers(kind: str, tmp_path: Path) -> None:
    coloured(tmp_path / "images", each=8, seed=1)
    paths = sorted((tmp_path / "images").rglob("*.png"))
    with (tmp_path / "rows.jsonl").open("w") as file:
        for path in paths:
            colour = path.parent.name
            labels = {"red": ["warm"], "green": ["cold", "plant"], "blue": ["cold"]}[colour]
            row = {"image": str(path), "labels": labels, "warmth": {"red": 30.0, "green": 12.0, "blue": 5.0}[colour]}
            file.write(json.dumps(row) + "\n")
    task: Any = "image-multi-label" if kind == "labels" else {"type": "image-regression", "targets": ["warmth"]}
    written = {
        "name": "tiny",
        "base": str(tiny_resnet(tmp_path / "base")),
        "task": task,
        "method": "full",
        "data": {"train": str(tmp_path / "rows.jsonl"), "eval": str(tmp_path / "rows.jsonl"), "augment": "light"},
        "training": {"epochs": 6, "batch_size": 8, "lr": 1e-2},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(tmp_path / "store"),
    }
    spec = RunSpec.resolve(written)
    outcome = train_local(spec)
    assert outcome.metrics["map" if kind == "labels" else "spearman"] > 0.8
    predictor = Predictor.open(spec.store, "tiny")
    rows = [str(path) for path in paths[::8]]
    out = export(spec.store, "tiny", tmp_path / "out")
    model = transformers.AutoModelForImageClassification.from_pretrained(out.folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(out.folder, backend="pil")
    with torch.inference_mode():
        found = model(**processor([Image.open(path).convert("RGB") for path in rows], return_tensors="pt")).logits
    torch.testing.assert_close(found, predictor.logits(rows), rtol=1e-4, atol=1e-3)


def losses(written: dict[str, Any]) -> list[float]:
    """The loss of every step and evaluation, as metrics.jsonl holds it."""
    text = Runs(open_store(written["store"])).read(RunSpec.resolve(written).run, "metrics.jsonl")
    lines = [json.loads(line) for line in text.decode().splitlines()]
    return [line[name] for line in lines for name in ("loss", "eval_loss") if name in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "strategy"),
    [("text-multi-label", "ddp"), ("text-regression", "ddp"), ("text-regression", "fsdp")],
)
def test_two_ranks_give_the_losses_of_one(task: str, strategy: str, tmp_path: Path) -> None:
    fields = {"targets": ["share", "price"]} if task == "text-regression" else {}
    written = document(tmp_path, {"type": task, **fields}, rows=21, epochs=1, dropout=0.0)
    train_local(RunSpec.resolve(written))
    several = {**written, "store": str(tmp_path / strategy)}
    several["compute"] = {"workers": 0, "cpus": 1, "strategy": strategy}
    on_ranks(2, several, str(tmp_path / "journal"))
    assert len(losses(written)) == 4
    assert losses(several) == pytest.approx(losses(written), abs=1e-5)


@pytest.mark.parametrize("task", [*TEXT_TASKS, pytest.param({"type": "text-classification"}, id="label")])
def test_answers_that_are_no_numbers_end_the_run_though_no_step_follows(task: dict[str, Any], tmp_path: Path) -> None:
    wild = {"epochs": 1, "batch_size": 64, "lr": 1e30, "optimizer": "sgd", "clip": None, "warmup": 0.0}
    spec = RunSpec.resolve(document(tmp_path, task, **wild))
    with pytest.raises(Diverged, match=r"evaluation rows with what is not a number: lower training\.lr"):
        train_local(spec)
    assert not list(open_store(str(tmp_path / "store")).list("models/"))
