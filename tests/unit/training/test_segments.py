"""Semantic segmentation end to end: from images and masks to a version that predicts and exports."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

import regraft
from regraft.errors import DataError, SpecError
from regraft.serving.export import export
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from support.segmenters import LABELS, segments, tiny_segformer


def document(folder: Path, *, images: int = 32, **training: Any) -> dict[str, Any]:
    return {
        "name": "cutter",
        "base": str(tiny_segformer(folder / "base")),
        "task": {"type": "semantic-segmentation", "labels": LABELS},
        "method": "full",
        "data": {
            "train": str(segments(folder / "train", images=images, seed=1)),
            "eval": str(segments(folder / "eval", images=8, seed=2)),
        },
        "training": {"epochs": 6, "batch_size": 4, "lr": 5e-3, **training},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


def test_rectangles_are_cut_out_and_the_model_leaves_with_equal_logits(tmp_path: Path) -> None:
    weights = {"ground": 0.5, "red": 2.0}
    outcome = train_local(RunSpec.resolve(document(tmp_path, class_weights=weights)))
    assert set(outcome.metrics) == {"mean_iou", "dice", "pixel_accuracy", "loss"}
    assert outcome.metrics["mean_iou"] > 0.7
    model = regraft.load("cutter", store=outcome.store)
    assert model.labels == LABELS
    picture = tmp_path / "eval/000.png"
    answers = model.predict([str(picture), {"image": picture.read_bytes()}])
    assert answers[0] == answers[1]
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(answers[0]["map"]))))
    assert (found == np.asarray(Image.open(tmp_path / "eval/000_mask.png"))).mean() > 0.8
    export(outcome.store, "cutter@latest", tmp_path / "out")
    there = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")(
        images=Image.open(picture), return_tensors="pt"
    )
    with torch.no_grad():
        assert torch.equal(there(**pixels).logits, model.logits([str(picture)]))
    assert tuple(there.config.id2label.values()) == LABELS


def test_masks_that_do_not_fit_are_named_before_training(tmp_path: Path) -> None:
    written = document(tmp_path, images=4)
    Image.new("L", (64, 63)).save(tmp_path / "train/001_mask.png")
    Image.new("L", (64, 64), 9).save(tmp_path / "train/002_mask.png")
    with pytest.raises(DataError, match="2 rows cannot be used") as caught:
        train_local(RunSpec.resolve(written))
    assert "001_mask.png has 64 x 63 pixels, and its image 64 x 64" in str(caught.value)
    assert "002_mask.png holds pixel values of no label: 9" in str(caught.value)
    assert "rows.csv" in str(caught.value)
    kept = train_local(
        RunSpec.resolve({**written, "data": {**written["data"], "bad_rows": "skip"}, "training": {"steps": 1}})
    )
    assert kept.metrics["pixel_accuracy"] >= 0


def test_labels_written_twice_and_weights_without_counts_are_refused(tmp_path: Path) -> None:
    written = document(tmp_path, images=1)
    with pytest.raises(SpecError, match="both say the labels: write them in task alone"):
        RunSpec.resolve({**written, "data": {**written["data"], "labels": ["a", "b"]}})
    with pytest.raises(SpecError, match="write a weight for each of ground, red, green, blue"):
        RunSpec.resolve({**written, "training": {"class_weights": "balanced"}})
