"""Tiny bases of image classifiers, and folders of coloured pictures that they can learn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import MobileNetV2Config, MobileNetV2Model, ResNetConfig, ResNetModel

COLOURS = ("blue", "green", "red")


def tiny_mobilenet(folder: Path, *, seed: int = 0) -> Path:
    """Save a MobileNetV2 of random weights and its image processor as a base; return the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = MobileNetV2Config(depth_multiplier=0.1, min_depth=8, image_size=32, finegrained_output=False)
        model = MobileNetV2Model(config)
        for weight in model.parameters():
            if weight.ndim == 4:  # with the default initialization hardly any signal reaches the end
                torch.nn.init.kaiming_normal_(weight, nonlinearity="linear")
    model.save_pretrained(folder)
    return _with_processor(folder)


def tiny_resnet(folder: Path, *, seed: int = 0) -> Path:
    """Save a ResNet of two short stages, whose random features separate colours; return the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
        ResNetModel(config).save_pretrained(folder)
    return _with_processor(folder)


def _with_processor(folder: Path) -> Path:
    processor = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def coloured(folder: Path, *, each: int, seed: int) -> Path:
    """Make folders named after colours, each with that many noisy pictures of it; return the parent folder."""
    draw = np.random.default_rng(seed)
    for channel, colour in enumerate(reversed(COLOURS)):
        (folder / colour).mkdir(parents=True)
        for number in range(each):
            pixels = draw.normal(60, 25, (36, 40, 3))
            pixels[..., channel] += 140
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / colour / f"{number:03d}.png", compress_level=1)
    return folder


def coloured_document(folder: Path, *, each: Mapping[str, int], **training: Any) -> dict[str, Any]:
    """Return the spec of a run that trains the head of `tiny_resnet` on `each` many pictures of a colour by side."""
    return {
        "name": "tiny",
        "base": str(tiny_resnet(folder / "base")),
        "task": "image-classification",
        "method": "feature-extraction",
        "data": {side: str(coloured(folder / side, each=many, seed=many)) for side, many in each.items()},
        "training": {"lr": 0.05, "baselines": False, "optimizer": "sgd", **training},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
    }
