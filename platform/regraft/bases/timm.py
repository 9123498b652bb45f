"""Bases of the timm library (VGG, ResNet, Inception, EfficientNet, ...), which transformers wraps in its own classes.

The files are those of timm's repositories, or what `save_pretrained` writes. The configuration holds the settings of
the image processor; the classifier is a module inside the base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from regraft.errors import Unsupported

CONFIG = "config.json"
_NEEDED = ("timm", "torchvision")


def is_timm_folder(folder: Path) -> bool:
    """Return whether a folder holds a model of timm; False where its configuration cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads the configuration next raises BaseError
    return isinstance(config, dict) and (config.get("model_type") == "timm_wrapper" or "pretrained_cfg" in config)


def require_timm(folder: Path, reference: str) -> bool:
    """Return whether a base is a model of timm. Raises Unsupported when it is, and what it needs is not installed."""
    if not is_timm_folder(folder):
        return False
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise Unsupported(
            f"{reference} is a base of the timm library, which needs {' and '.join(missing)}: "
            "pip install 'regraft[timm]'",
            where="base",
        )
    return True


def foreign_file(config: object) -> str | None:
    """Return the setting by which a configuration has timm read files of another place, or None.

    timm loads the checkpoint of such a setting itself, a pickle included.
    """
    document = config if isinstance(config, dict) else {}
    arguments = document.get("model_args")
    if isinstance(arguments, dict) and arguments.get("checkpoint_path"):
        return f"model_args.checkpoint_path {arguments['checkpoint_path']!r}"
    name = document.get("architecture")
    return f"architecture {name!r}" if isinstance(name, str) and ":" in name else None


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifiers inside one of timm's models; none for any other model.

    A distilled model has two of them.
    """
    asked: Any = getattr(model, "get_classifier", None)
    if asked is None:
        return ()
    found = asked()
    layers = found if isinstance(found, list | tuple) else (found,)
    return tuple(
        name
        for name, module in model.named_modules()
        if name and any(module is layer for layer in layers) and any(True for _ in module.parameters())
    )


def input_shape(config: Any) -> tuple[int, int, int] | None:
    """Return channels, height and width of the images that a configuration of timm names, or None."""
    settings = getattr(config, "pretrained_cfg", None)
    shape = settings.get("input_size") if isinstance(settings, Mapping) else None
    whole = isinstance(shape, list | tuple) and len(shape) == 3 and all(type(size) is int for size in shape)
    return (shape[0], shape[1], shape[2]) if whole and shape else None
