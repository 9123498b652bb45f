"""Every method of every task answers in a mixed batch as it does alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from regraft.contracts import Method, Task
from regraft.errors import Unsupported
from regraft.serving.engine.dummy_rows import close
from regraft.serving.engine.engine import Engine, RowRequest
from regraft.serving.predictor import Predictor
from regraft.spec.closed_form import fitting_methods
from unit.every.rows import base_of, rows_of, task_of
from unit.serving.tiny import publish

FAMILIES = {
    "anomaly-detection": ("mobilenet_v2",),
    "zero-shot-image-classification": ("clip",),
    "audio-classification": ("wav2vec2", "audio-spectrogram-transformer"),
    "depth-estimation": ("dpt",),
    "embeddings": ("bert",),
    "image-embeddings": ("vit",),
    "image-classification": ("mobilenet_v2", "swin"),
    "image-multi-label": ("resnet",),
    "image-regression": ("vit",),
    "masked-lm": ("roberta",),
    "object-detection": ("yolos", "detr", "rt_detr"),
    "question-answering": ("bert",),
    "semantic-segmentation": ("segformer",),
    "summarization": ("bart",),
    "text-classification": ("bert", "gpt2"),
    "text-generation": ("llama",),
    "text-multi-label": ("bert-pooled",),
    "text-pair-classification": ("roberta",),
    "text-pair-regression": ("mpnet",),
    "text-regression": ("distilbert",),
    "token-classification": ("deberta-v2",),
    "translation": ("t5",),
}
SECOND = {
    *{("text-classification", "gpt2"), ("image-classification", "swin"), ("object-detection", "rt_detr")},
    ("audio-classification", "audio-spectrogram-transformer"),
}
"""Families after the first of their task: slow."""
FEW: list[Any] = [
    "feature-extraction",
    {"type": "lora", "rank": 3, "rslora": True, "targets": "linear"},
    {"type": "freeze", "depth": 1},
]
MANY: list[Any] = [
    *FEW,
    "feature-extraction",
    {"type": "lora", "rank": 2},
    {"type": "lora", "rank": 2, "dora": True},
    "full",
]
CASES = [
    pytest.param(
        key,
        family,
        ways,
        marks=pytest.mark.slow if (key, family) in SECOND or ways is MANY else (),
        id=f"{key}-{family}-{'many' if ways is MANY else 'few'}",
    )
    for ways in (FEW, MANY)
    for key, families in FAMILIES.items()
    for family in families
    if ways is MANY or (key, family) not in SECOND
]


def test_every_task_is_tried() -> None:
    assert set(FAMILIES) == set(Task.names())


@pytest.mark.parametrize(("key", "family", "ways"), CASES)
def test_answers_of_a_mixed_batch_are_those_of_each_row_alone(
    key: str, family: str, ways: list[Any], store: Path, tmp_path: Path
) -> None:
    base, task = base_of(family, tmp_path / "base"), task_of(key)
    if "threshold" in type(task).model_fields and key == "object-detection":
        task = task.model_copy(update={"threshold": 0.0})
    names = []
    ways = ways if task.takes_steps else [{"type": one, "bank_mb": 0.01} for one in fitting_methods(task)]
    for number, way in enumerate(ways):
        try:
            publish(store, base.path, task, Method.parse(way), f"m{number}", seed=number)
        except Unsupported:
            continue  # training refuses combinations that do not fit
        names.append(f"m{number}")
    assert len(names) >= len(ways) - 2
    asked = rows_of(task)
    rows = [{name: row[name] for name in row if name not in task.target_columns() and name != "row"} for row in asked]
    engine = Engine(str(store), device="cpu")
    wanted = [(name, row) for name in names for row in rows]
    random.Random(0).shuffle(wanted)
    found = engine.answer([engine.encode(RowRequest(name, "v1", row)) for name, row in wanted])
    alone = {name: Predictor.open(str(store), name, device="cpu") for name in names}
    for (name, row), answer in zip(wanted, found, strict=True):
        expected = alone[name].predict([row])[0]
        assert not isinstance(answer, Exception), answer
        assert close(expected, answer, 1e-5), (name, expected, answer)
