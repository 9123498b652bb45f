"""Layers that overwrite their input, as torchvision's and timm's activations do, write new tensors instead."""

from __future__ import annotations

from torch import nn


def write_new_tensors(model: nn.Module) -> None:
    """Turn off the in-place form of every layer that has one; no value changes.

    An activation after a frozen layer would overwrite the layer's output, which is kept for later epochs and runs.
    """
    for module in model.modules():
        if getattr(module, "inplace", None) is True:
            module.inplace = False  # type: ignore[assignment]
