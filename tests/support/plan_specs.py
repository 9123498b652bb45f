"""Twelve tiny specs over tasks, methods and workers, whose plans are checked against their runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.image_bases import coloured, tiny_resnet
from support.language_models import tiny_language
from support.tiny import document

Written = dict[str, Any]


def _texts(folder: Path, method: Any, *, workers: int = 0, **more: Any) -> Written:
    training = more.pop("training", {})
    written = document(folder, method=method, **training)
    return {**written, "compute": {**written["compute"], "workers": workers}, **more}


def _language(folder: Path, method: Any) -> Written:
    written = _texts(folder, method, task={"type": "text-generation", "block_size": 32, "max_new_tokens": 8})
    return {**written, "base": str(tiny_language(folder / "language"))}


def _pictures(folder: Path, method: Any) -> Written:
    written = document(folder, method=method)
    data = {side: str(coloured(folder / side, each=each, seed=each)) for side, each in (("train", 8), ("eval", 4))}
    return {**written, "base": str(tiny_resnet(folder / "resnet")), "task": "image-classification", "data": data}


def _sharded(folder: Path) -> Written:
    written = _texts(folder, "full", workers=2)
    return {**written, "compute": {**written["compute"], "strategy": "fsdp"}}


SPECS: Mapping[str, Callable[[Path], Written]] = {
    "full": lambda folder: _texts(folder, "full"),
    "lora": lambda folder: _texts(folder, "lora"),
    "feature-extraction": lambda folder: _texts(folder, "feature-extraction"),
    "freeze-sgd": lambda folder: _texts(folder, {"type": "freeze", "depth": 1}, training={"optimizer": "sgd"}),
    "bitfit": lambda folder: _texts(folder, "bitfit"),
    "ia3": lambda folder: _texts(folder, "ia3"),
    "prototypes": lambda folder: _texts(folder, "prototypes"),
    "masked-lm": lambda folder: _texts(folder, "full", task="masked-lm"),
    "language-lora": lambda folder: _language(folder, "lora"),
    "pictures": lambda folder: _pictures(folder, "full"),
    "two-workers": lambda folder: _texts(folder, "full", workers=2),
    "two-workers-fsdp": lambda folder: _sharded(folder),
}
"""By name: a spec in that folder; those of several workers name them in `compute.workers`."""
