"""Bases of timm with random weights, in the files of timm's own repositories: its names, and no image processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

INSTALLED = all(find_spec(name) is not None for name in ("timm", "torchvision"))
MISSING = "timm or torchvision is not installed"
_WRITTEN = ("interpolation", "crop_pct", "crop_mode", "mean", "std", "fixed_input_size")
"""Settings of a model that its repository's configuration repeats."""


@dataclass(frozen=True)
class TimmShape:
    """One architecture: the side of its pictures here, arguments that make it smaller, and its number of blocks."""

    architecture: str
    side: int
    blocks: int
    arguments: Mapping[str, Any] = field(default_factory=dict)


FIELD = {
    "vgg16": TimmShape("vgg16", 32, 15, {"mlp_ratio": 0.01}),
    "inception_v3": TimmShape("inception_v3", 80, 16),
    "resnet50": TimmShape("resnet50", 64, 16),
}
"""The networks that courses and papers begin with, in their whole depth. VGG's first dense layer, a hundred of its
134 million parameters, is thinner."""
SMALL = {
    "convnext": TimmShape("test_convnext", 64, 9),
    "dinov2": TimmShape(
        "vit_small_patch14_dinov2", 28, 3, {"depth": 3, "embed_dim": 16, "num_heads": 2, "img_size": 28}
    ),
    "efficientnet": TimmShape("test_efficientnet", 64, 5),
    "resnet": TimmShape("test_resnet", 64, 4),
    "vit": TimmShape("test_vit", 160, 6),
}
"""Small ones of further families."""
TIMM = FIELD | SMALL

TIMM_RUNS: list[tuple[str, Any]] = [
    *(("resnet50", name) for name in ("feature-extraction", "freeze", "prototypes", "setfit")),
    ("vgg16", {"type": "freeze", "depth": 13}),
    ("inception_v3", "feature-extraction"),
    *((name, "full") for name in SMALL),
    *(("resnet", name) for name in ("gradual-unfreezing", "lp-ft")),
]
"""Networks and methods of whole runs."""


def timm_base(name: str, folder: Path, *, labels: int = 5, side: int | None = None) -> Path:
    """Save a network by its key in TIMM; `side` is that of its pictures, if not the small one. Return the folder."""
    shape = TIMM[name]
    return timm_folder(shape.architecture, folder, side or shape.side, labels, shape.arguments)


def timm_folder(
    architecture: str, folder: Path, side: int | None, labels: int, arguments: Mapping[str, Any] | None = None
) -> Path:
    """Save a network of random weights and shaken statistics; `side` None keeps its own size of pictures."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=labels, **(arguments or {}))
        _shake_statistics(model)
    return write_timm(model, architecture, folder, side, arguments)


def write_timm(
    model: Any, architecture: str, folder: Path, side: int | None = None, arguments: Mapping[str, Any] | None = None
) -> Path:
    """Write a model of timm as its library's repositories hold it: `config.json`, and weights by its own names."""
    settings = {name: value for name, value in model.pretrained_cfg.items() if name in _WRITTEN and value is not None}
    settings["input_size"] = [3, side, side] if side else list(model.pretrained_cfg["input_size"])
    document = {
        "architecture": architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": settings,
        **({"model_args": dict(arguments)} if arguments else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(document))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _shake_statistics(model: nn.Module) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(0.1 * torch.rand_like(buffer))
