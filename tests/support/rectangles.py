"""Coloured rectangles on noise, as COCO files, and a small detector that learns them from random weights.

A detection task whose truth is exact, made in a second, for tests that must see a model learn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import YolosConfig, YolosForObjectDetection

CLASSES = ("red", "green", "blue")
SIDE = 64
PATCH = 8
SMALLEST, LARGEST = 18, 32

RECIPE: dict[str, Any] = {
    "images": 600,
    "task": {"type": "object-detection", "no_object_weight": 0.4},
    "training": {
        "epochs": 18,
        "batch_size": 32,
        "lr": 1.5e-3,
        "weight_decay": 1e-4,
        "schedule": "linear",
        "warmup": 0.1,
        "clip": 1.0,
    },
}
"""Training with which `tiny_yolos` exceeds mAP50 0.9, all weights trained: 342 steps, 40 s of one core.

DETR's own weight of `no object`, 0.1, is meant for 100 queries; with 5 it lets wrong boxes score too high.
"""


def rectangles(folder: Path, *, images: int, seed: int) -> Path:
    """Write that many PNG files and `annotations.json` in COCO format beside them; return the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)],
    }
    for image in range(images):
        pixels, boxes, classes = draw(np.random.default_rng([seed, image]))
        name = f"{image:05d}.png"
        Image.fromarray(pixels).save(folder / name, compress_level=1)
        document["images"].append({"id": image + 1, "file_name": name, "width": SIDE, "height": SIDE})
        for box, kind in zip(boxes, classes, strict=True):
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": image + 1,
                    "category_id": kind + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    path = folder / "annotations.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def draw(random: np.random.Generator) -> tuple[np.ndarray, list[list[int]], list[int]]:
    """Return pixels (64, 64, 3) of uint8, boxes [x, y, width, height] in pixels, and the class number of each."""
    pixels = random.normal(110, 12, (SIDE, SIDE, 3))
    boxes: list[list[int]] = []
    classes: list[int] = []
    wanted = int(random.integers(1, 4))
    while len(boxes) < wanted:
        width, height = random.integers(SMALLEST, LARGEST + 1, 2).tolist()
        x, y = int(random.integers(0, SIDE - width + 1)), int(random.integers(0, SIDE - height + 1))
        box = [x, y, width, height]
        if any(_near(box, other) for other in boxes):
            # A crowded image starts again instead of searching for a free place that may not exist.
            pixels, boxes, classes = random.normal(110, 12, (SIDE, SIDE, 3)), [], []
            continue
        kind = int(random.integers(len(CLASSES)))
        colour = random.normal(50, 12, 3)
        colour[kind] = random.normal(210, 12)
        pixels[y : y + height, x : x + width] = colour + random.normal(0, 8, (height, width, 3))
        boxes.append(box)
        classes.append(kind)
    return pixels.clip(0, 255).astype(np.uint8), boxes, classes


def rows(annotations: Path) -> Iterator[dict[str, Any]]:
    """Return the rows of a COCO file as the detection task reads them."""
    document = json.loads(annotations.read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in document["categories"]}
    for number, image in enumerate(document["images"]):
        own = [item for item in document["annotations"] if item["image_id"] == image["id"]]
        yield {
            "row": number,
            "image": str(annotations.parent / image["file_name"]),
            "boxes": [item["bbox"] for item in own],
            "labels": [names[item["category_id"]] for item in own],
        }


def tiny_yolos(folder: Path, *, seed: int = 0) -> Path:
    """Save a YOLOS of random weights and its image processor as a base; return the folder.

    Positions start as sines of the coordinates and detection tokens apart from one another: transformers starts both at
    zero, from where all detection tokens would stay alike.
    """
    config = YolosConfig(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=[SIDE, SIDE],
        patch_size=PATCH,
        num_detection_tokens=5,
        use_mid_position_embeddings=False,
        initializer_range=0.06,
        num_labels=len(CLASSES),
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = YolosForObjectDetection(config)
        spread(model.vit.embeddings, config)
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "YolosImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.45, 0.45, 0.45],
        "image_std": [0.25, 0.25, 0.25],
        "do_pad": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def spread(parts: Any, config: YolosConfig) -> None:
    """Set YOLOS's position and detection embeddings, in place, so that it can learn from random weights."""
    centres = [
        (torch.arange(side // config.patch_size) + 0.5) / (side // config.patch_size) for side in config.image_size
    ]
    patches = torch.stack(torch.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 2)
    anchors = torch.rand(config.num_detection_tokens, 2)
    with torch.no_grad():
        parts.position_embeddings[0, 1 : 1 + len(patches)] = _waves(patches, config.hidden_size)
        parts.position_embeddings[0, 1 + len(patches) :] = _waves(anchors, config.hidden_size)
        parts.detection_tokens.normal_(0, 0.5)


def _waves(points: Tensor, width: int) -> Tensor:
    """Return sines and cosines (points, width) of coordinates (points, 2) in 0..1."""
    rates = torch.pi * 2.0 ** torch.linspace(0, 3, width // 4)
    angles = points[:, :, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1) * 0.5


def _near(one: list[int], other: list[int], gap: int = 2) -> bool:
    return all(
        one[axis] < other[axis] + other[axis + 2] + gap and other[axis] < one[axis] + one[axis + 2] + gap
        for axis in (0, 1)
    )
