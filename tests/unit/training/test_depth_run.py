"""Depth estimation end to end: from pictures and depth maps to a version that predicts, is evaluated and exported."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

import regraft
from regraft.bases.load import quiet
from regraft.errors import DataError
from regraft.media.pixels.depth_maps import depths_of_png
from regraft.serving.export import export
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from support.depth_models import SIDE, scenes, tiny_dpt


def document(
    folder: Path, *, kind: str = "metric", images: int = 8, size: tuple[int, int] = (40, 48), **training: Any
) -> dict[str, Any]:
    rows = str(scenes(folder / "rows", images=images, seed=1, size=size))
    return {
        "name": "ranger",
        "base": str(tiny_dpt(folder / "base")),
        "task": {"type": "depth-estimation", "kind": kind},
        "method": "full",
        "data": {"train": rows, "eval": rows},
        "training": {"steps": 300, "batch_size": 8, "lr": 1e-2, "eval_steps": 150, **training},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["metric", "relative"])
def test_eight_pairs_are_learned_by_heart(kind: str, tmp_path: Path) -> None:
    outcome = train_local(RunSpec.resolve(document(tmp_path, kind=kind, size=(SIDE, SIDE))))
    assert set(outcome.metrics) == {"abs_rel", "rmse", "delta1", "loss"}
    assert outcome.metrics["abs_rel"] <= 0.05


def test_a_run_leads_to_answers_a_report_and_a_folder_with_the_same_depth(tmp_path: Path) -> None:
    written = document(tmp_path, images=4, steps=2, batch_size=4)
    outcome = train_local(RunSpec.resolve(written))
    assert outcome.metrics["abs_rel"] >= 0
    path = tmp_path / "rows/000.png"
    (answer,) = regraft.load("ranger", store=outcome.store).predict([str(path)])
    image = Image.open(io.BytesIO(base64.b64decode(answer["depth"])))
    assert (image.mode, image.size, answer["kind"]) == ("I;16", (48, 40), "metric")
    found = regraft.evaluate(
        "ranger", store=outcome.store, data=written["data"]["eval"], output=str(tmp_path / "measured")
    )
    assert found.document["metrics"]["abs_rel"] == pytest.approx(outcome.metrics["abs_rel"], rel=1e-5)
    page = found.html.read_text()
    assert "By distance" in page and "no depth" in page
    export(outcome.store, "ranger@latest", tmp_path / "out")
    with quiet():
        there = pipeline("depth-estimation", str(tmp_path / "out"))(str(path))
    low, high = answer["range"]
    assert np.allclose(there["predicted_depth"].numpy(), depths_of_png(answer["depth"], low, high), atol=1e-4)


def test_depth_maps_that_do_not_fit_are_named_before_training(tmp_path: Path) -> None:
    written = document(tmp_path, images=4)
    Image.fromarray(np.ones((40, 47), np.uint16)).save(tmp_path / "rows/001_depth.png")
    Image.fromarray(np.zeros((40, 48), np.uint16)).save(tmp_path / "rows/002_depth.png")
    with pytest.raises(DataError, match="2 rows cannot be used") as caught:
        train_local(RunSpec.resolve({**written, "data": {"train": written["data"]["train"], "eval": 0.5}}))
    assert "rows.csv:3: depth " in str(caught.value) and "has 47 x 40 pixels, and its image 48 x 40" in str(
        caught.value
    )
    assert "rows.csv:4: depth " in str(caught.value) and "002_depth.png has no valid pixel" in str(caught.value)
