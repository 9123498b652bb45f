"""Coloured rectangles on noise with masks, and small segmenters of random weights that learn them in seconds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from support.rectangles import CLASSES, draw

LABELS = ("ground", *CLASSES)
SIDE = 32
"""Side in pixels to which the processors resize."""


def segments(folder: Path, *, images: int, seed: int) -> Path:
    """Write that many images and masks, and `rows.csv` with the columns image and mask; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(images):
        pixels, boxes, classes = draw(np.random.default_rng([seed, number]))
        mask = np.zeros(pixels.shape[:2], np.uint8)
        for (left, top, across, down), kind in zip(boxes, classes, strict=True):
            mask[top : top + down, left : left + across] = kind + 1
        row = [f"{number:03d}.png", f"{number:03d}_mask.png"]
        Image.fromarray(pixels).save(folder / row[0], compress_level=1)
        Image.fromarray(mask).save(folder / row[1], compress_level=1)
        rows.append(row)
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "mask"], *rows])
    return folder / "rows.csv"


def tiny_segformer(folder: Path, *, seed: int = 0) -> Path:
    """Save a SegFormer of random weights with two unrelated labels; return the folder."""
    stages = {"depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 24], "patch_sizes": [3, 3], "strides": [2, 2]}
    more = {"num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 16, "num_encoder_blocks": 2}
    config = SegformerConfig(**stages, **more)
    return _saved(SegformerForSemanticSegmentation, config, folder, seed, "SegformerImageProcessor")


def tiny_deeplab(folder: Path, *, seed: int = 0) -> Path:
    """Save a DeepLabV3 on MobileNetV2; return the folder."""
    config = MobileNetV2Config(depth_multiplier=0.05, min_depth=4, image_size=SIDE, finegrained_output=False)
    return _saved(MobileNetV2ForSemanticSegmentation, config, folder, seed, "MobileNetV2ImageProcessor")


def tiny_beit(folder: Path, *, seed: int = 0) -> Path:
    """Save a BEiT with an auxiliary head, whose processor crops and would renumber masks; return the folder."""
    config = BeitConfig(
        image_size=SIDE,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=24,
        out_indices=[1, 2, 3, 4],
        use_relative_position_bias=True,
        use_auxiliary_head=True,
    )
    return _saved(BeitForSemanticSegmentation, config, folder, seed, "BeitImageProcessor")


def _saved(kind: Any, config: Any, folder: Path, seed: int, processor: str) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind(config).save_pretrained(folder)
    written = {
        "image_processor_type": processor,
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.45, 0.45, 0.45],
        "image_std": [0.25, 0.25, 0.25],
        "do_normalize": True,
    }
    if processor != "SegformerImageProcessor":
        # A crop that would hide a quarter of the image.
        written |= {"size": {"height": 40, "width": 40}, "do_center_crop": True, "do_reduce_labels": True}
        written |= {"crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(written), encoding="utf-8")
    return folder
