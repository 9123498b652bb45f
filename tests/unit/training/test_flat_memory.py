"""Memory does not grow with the data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.image_bases import tiny_resnet
from support.processes import in_child, train_and_weigh

LARGE, SMALL = 2000, 20
"""Images of one megabyte each."""


def photos(folder: Path, count: int) -> Path:
    """Two class folders of noise; every file is a name of its own for one of eight, so that the disk holds eight."""
    draw = np.random.default_rng(0)
    for number in range(0 if (folder.parent / "kinds").exists() else 8):
        pixels = draw.integers(0, 255, (640, 620, 3), dtype=np.uint8)
        (folder.parent / "kinds").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder.parent / "kinds" / f"{number}.png", compress_level=0)
    for label in ("one", "two"):
        (folder / label).mkdir(parents=True)
    for number in range(count):
        label = ("one", "two")[number % 2]
        os.link(folder.parent / "kinds" / f"{number % 8}.png", folder / label / f"{number:05d}.png")
    return folder


def spec_of(folder: Path, base: Path, count: int) -> dict[str, Any]:
    data = photos(folder / "photos", count)
    assert sum(path.stat().st_size for path in data.rglob("*.png")) > count * 1_000_000
    return {
        "name": "flat",
        "base": str(base),
        "task": "image-classification",
        "method": "full",
        "data": {"train": str(data), "eval": str(photos(folder / "held", SMALL))},
        "training": {"epochs": 1, "batch_size": 10, "lr": 1e-3, "baselines": False},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }


@pytest.mark.slow
def test_two_gigabytes_of_images_take_the_memory_of_twenty_megabytes(tmp_path: Path) -> None:
    base = tiny_resnet(tmp_path / "base")
    peaks = {}
    for count in (SMALL, LARGE):
        (tmp_path / str(count)).mkdir()
        written = spec_of(tmp_path / str(count), base, count)
        assert in_child(train_and_weigh, written, str(tmp_path / f"{count}.txt"), timeout=500) == 0
        peaks[count] = int((tmp_path / f"{count}.txt").read_text())
    print(f"peak memory: {peaks[SMALL] / 2**20:.0f} MB for 20 MB, {peaks[LARGE] / 2**20:.0f} MB for 2 GB")
    assert abs(peaks[LARGE] - peaks[SMALL]) < 200 * 2**20
