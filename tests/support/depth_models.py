"""Slopes with boxes on them as pictures with their depth, and a small DPT of random weights that learns them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import DPTConfig, DPTForDepthEstimation

SIDE = 32
"""Side in pixels to which the processor resizes."""


def scene(seed: int, size: tuple[int, int] = (40, 48)) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return a picture (height, width, 3) and its depth in millimetres (height, width): near things are bright."""
    draw = np.random.default_rng(seed)
    height, width = size
    depth = np.linspace(4000, 1000, height)[:, None] + np.zeros(width)
    top, left = draw.integers(2, height // 2), draw.integers(2, width // 2)
    depth[top : top + height // 3, left : left + width // 3] = draw.integers(700, 1500)
    shade = (255 * (1 - depth / 5000))[..., None] * draw.uniform(0.6, 1, 3)
    return shade.astype(np.uint8), depth.astype(np.uint16)


def scenes(folder: Path, *, images: int, seed: int, size: tuple[int, int] = (40, 48)) -> Path:
    """Write that many pictures and depth maps, and `rows.csv` with the columns image and depth; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(images):
        pixels, depth = scene(1000 * seed + number, size)
        row = [f"{number:03d}.png", f"{number:03d}_depth.png"]
        Image.fromarray(pixels).save(folder / row[0], compress_level=1)
        Image.fromarray(depth).save(folder / row[1], compress_level=1)
        rows.append(row)
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "depth"], *rows])
    return folder / "rows.csv"


def tiny_dpt(folder: Path, *, seed: int = 0) -> Path:
    """Save a DPT of random weights with its image processor; return the folder."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    neck = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "backbone_out_indices": [0, 1, 2, 3]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DPTForDepthEstimation(DPTConfig(image_size=SIDE, patch_size=8, **sizes, **neck))
        torch.nn.init.constant_(model.head.head[4].bias, 1.0)  # a ReLU follows, which random weights may close
        model.save_pretrained(folder)
    written = {
        "image_processor_type": "DPTImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "keep_aspect_ratio": False,
        "do_resize": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(written), encoding="utf-8")
    return folder
