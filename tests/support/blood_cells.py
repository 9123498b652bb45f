"""BCCD, microscope images of blood cells with boxes as VOC documents, and a small detector that learns a few.

The pictures are read from `$REGRAFT_SHARED/data/bccd` (default: `../shared` beside the checkout).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import YolosConfig, YolosForObjectDetection

from support.paths import SHARED
from support.rectangles import spread

BCCD = SHARED / "data" / "bccd"
HEIGHT, WIDTH = 144, 192

TASK: dict[str, Any] = {"type": "object-detection", "no_object_weight": 0.4}
TRAINING: dict[str, Any] = {
    "steps": 1200,
    "eval_steps": 400,
    "batch_size": 8,
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "schedule": "linear",
    "warmup": 0.1,
    "clip": 1.0,
}
"""Training with which `small_yolos` memorizes 16 pictures: about 0.2 s of one core for each step."""


def some_of(folder: Path, *, pictures: int) -> str:
    """Make a VOC folder with one split, `some`, the first pictures of BCCD's training split; return `folder#some`."""
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for name in ("Annotations", "JPEGImages"):
        (folder / name).symlink_to(BCCD / name)
    names = (BCCD / "ImageSets" / "Main" / "train.txt").read_text(encoding="utf-8").split()[:pictures]
    (folder / "ImageSets" / "Main" / "some.txt").write_text("\n".join(names), encoding="utf-8")
    return f"{folder}#some"


def small_yolos(folder: Path, *, seed: int = 0) -> Path:
    """Save a YOLOS of 1.2 million random weights and its image processor as a base; return the folder."""
    config = YolosConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=384,
        image_size=[HEIGHT, WIDTH],
        patch_size=16,
        num_detection_tokens=36,
        use_mid_position_embeddings=False,
        initializer_range=0.04,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = YolosForObjectDetection(config)
        spread(model.vit.embeddings, config)
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "YolosImageProcessor",
        "size": {"height": HEIGHT, "width": WIDTH},
        "image_mean": [0.6, 0.6, 0.6],
        "image_std": [0.2, 0.2, 0.2],
        "do_pad": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def document(folder: Path, *, pictures: int = 16, cpus: int = 2, **training: Any) -> dict[str, Any]:
    """Return a complete spec that memorizes the pictures, which are the evaluation rows too."""
    rows = some_of(folder / "bccd", pictures=pictures)
    return {
        "name": "blood-cells",
        "base": str(small_yolos(folder / "base")),
        "task": TASK,
        "method": "full",
        "data": {"train": rows, "eval": rows},
        "training": {**TRAINING, **training},
        "compute": {"workers": 0, "cpus": cpus},
        "store": str(folder / "store"),
    }
