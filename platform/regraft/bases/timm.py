"""Bases of the timm library (VGG, ResNet, Inception, EfficientNet, ...), which transformers wraps in its own classes.

The files are those of timm's repositories, or what `save_pretrained` writes. The configuration holds the settings of
the image processor; the classifier is a module inside the base.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from regraft.errors import Unsupported

CONFIG = "config.json"
LIBRARIES = ("timm", "torchvision")
"""Libraries that hold the code of these models, and of the way that their images are read."""


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
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
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
    return next(_foreign_settings(config), None)


def _foreign_settings(document: object) -> Iterator[str]:
    """Yield such settings at any depth: a model of several parts has a configuration within its own for each."""
    if isinstance(document, dict):
        arguments = document.get("model_args")
        if isinstance(arguments, dict) and (path := arguments.get("checkpoint_path")):
            yield f"model_args.checkpoint_path {path!r}"
        name = document.get("architecture")
        if isinstance(name, str) and ":" in name:
            yield f"architecture {name!r}"
    for inner in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from _foreign_settings(inner)


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
