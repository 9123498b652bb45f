"""Object detection in the same loop: a small YOLOS from random weights learns rectangles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from support.processes import in_child, train_counted
from support.rectangles import RECIPE, rectangles, rows, tiny_yolos


def document(folder: Path, *, images: int, **training: Any) -> dict[str, Any]:
    return {
        "name": "rectangles",
        "base": str(tiny_yolos(folder / "base")),
        "task": RECIPE["task"],
        "method": "full",
        "data": {
            "train": str(rectangles(folder / "train", images=images, seed=1)),
            "eval": str(rectangles(folder / "eval", images=max(16, images // 6), seed=2)),
        },
        "training": {**RECIPE["training"], **training},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


@pytest.mark.slow
def test_a_killed_detection_run_ends_bit_identical(tmp_path: Path) -> None:
    written = document(tmp_path, images=32, epochs=2, batch_size=8, checkpoint_steps=2)
    straight = {**written, "store": str(tmp_path / "straight")}
    assert in_child(train_counted, straight, str(tmp_path / "one")) == 0
    assert in_child(train_counted, written, str(tmp_path / "two"), 5) == -9
    assert in_child(train_counted, written, str(tmp_path / "two")) == 0
    deltas = [
        (Path(spec["store"]) / "models/rectangles/v1/delta.safetensors").read_bytes() for spec in (written, straight)
    ]
    assert deltas[0] == deltas[1]


@pytest.mark.slow
def test_random_weights_learn_rectangles_to_map50_of_nine_tenths(tmp_path: Path) -> None:
    spec = RunSpec.resolve(document(tmp_path, images=RECIPE["images"]))
    outcome = train_local(spec)
    print(f"mAP50 {outcome.metrics['map50']:.3f} on held-out images in {outcome.seconds:.0f} s")
    assert outcome.metrics["map50"] >= 0.9
    model = regraft.load("rectangles", store=spec.store)
    shown = list(rows(tmp_path / "eval" / "annotations.json"))[:40]
    found = [answer["objects"] for answer in model.predict([{"image": row["image"]} for row in shown])]
    exact = [sorted(item["label"] for item in items) == sorted(row["labels"]) for items, row in zip(found, shown)]  # noqa: B905
    assert sum(exact) / len(exact) >= 0.6
