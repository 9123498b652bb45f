"""Augmented training: different images in each epoch, and the same ones again after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.errors import SpecError
from regraft.spec.run import RunSpec
from support.image_bases import coloured, tiny_resnet
from support.processes import in_child, train_counted
from support.rectangles import rectangles, tiny_yolos
from support.segmenters import LABELS, segments, tiny_segformer
from support.tiny import document as texts


def document(folder: Path, task: str, augment: str) -> dict[str, Any]:
    if task == "object-detection":
        data = {side: str(rectangles(folder / side, images=24, seed=len(side))) for side in ("train", "eval")}
        base = tiny_yolos(folder / "base")
    elif task == "semantic-segmentation":
        data = {side: str(segments(folder / side, images=24, seed=len(side))) for side in ("train", "eval")}
        base = tiny_segformer(folder / "base")
    else:
        data = {side: str(coloured(folder / side, each=8, seed=len(side))) for side in ("train", "eval")}
        base = tiny_resnet(folder / "base")
    return {
        "name": "changed",
        "base": str(base),
        "task": {"type": task, "labels": LABELS} if task == "semantic-segmentation" else task,
        "method": "full",
        "data": {**data, "augment": augment},
        "training": {"epochs": 2, "batch_size": 8, "lr": 1e-3, "checkpoint_steps": 2, "baselines": False},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


def delta(written: dict[str, Any]) -> bytes:
    return (Path(written["store"]) / "models/changed/v1/delta.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("task", "augment"),
    [
        pytest.param("object-detection", "strong", marks=pytest.mark.slow),
        pytest.param("semantic-segmentation", "strong", marks=pytest.mark.slow),
        pytest.param("image-classification", "light", marks=pytest.mark.slow),
    ],
)
def test_a_killed_augmented_run_ends_bit_identical(tmp_path: Path, task: str, augment: str) -> None:
    written = document(tmp_path, task, augment)
    straight = {**written, "store": str(tmp_path / "straight")}
    plain = {**written, "store": str(tmp_path / "plain"), "data": {**written["data"], "augment": "off"}}
    for spec, row_log in ((straight, "one"), (plain, "none")):
        assert in_child(train_counted, spec, str(tmp_path / row_log)) == 0
    assert in_child(train_counted, written, str(tmp_path / "two"), 4) == -9
    assert in_child(train_counted, written, str(tmp_path / "two")) == 0
    assert delta(written) == delta(straight)
    assert delta(written) != delta(plain)


def test_augmentation_of_texts_is_refused_before_anything_starts(tmp_path: Path) -> None:
    written = texts(tmp_path)
    with pytest.raises(SpecError, match=r"data\.augment has no meaning for task text-classification"):
        RunSpec.resolve({**written, "data": {**written["data"], "augment": "light"}})
