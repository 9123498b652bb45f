"""A tiny input for a model of which only the configuration is known."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 6
SIDE = 64
"""Pixels: small, and a multiple of what most models divide an image by."""


def made_up_inputs(model: nn.Module, base: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inputs of one row for `model`'s forward, the cheapest first; none when it asks for neither tokens nor pixels."""
    config: Any = getattr(base, "config", None)
    taken = inspect.signature(model.forward).parameters
    device = next(base.parameters()).device
    if "pixel_values" in taken:
        for height, width in dict.fromkeys(_sides(config)):
            shape = 1, int(_setting(config, "num_channels") or 3), height, width
            pixels = torch.linspace(-1, 1, height * width * shape[1], device=device).reshape(shape)
            yield {"pixel_values": pixels, **(_words(config, taken, device) if "input_ids" in taken else {})}
    elif "input_ids" in taken:
        yield _words(config, taken, device)


def _setting(config: Any, name: str) -> Any:
    """A field of the configuration, or of the part of it (`vision_config`) that has it."""
    parts = (config, getattr(config, "vision_config", None), getattr(config, "text_config", None))
    return next((value for part in parts if (value := getattr(part, name, None)) is not None), None)


def _sides(config: Any) -> Iterator[tuple[int, int]]:
    size = _setting(config, "image_size")
    native = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else (224, 224)
    yield min(SIDE, native[0]), min(SIDE, native[1])
    yield native[0], native[1]


def _words(config: Any, taken: Any, device: torch.device) -> dict[str, Tensor]:
    """Distinct ordinary tokens, ended by the end-of-sequence token that some classifiers look for."""
    size = int(_setting(config, "vocab_size") or TOKENS)
    ids = torch.arange(size // 2, size // 2 + TOKENS, device=device) % size
    end = _setting(config, "eos_token_id")
    if isinstance(end, int) and 0 <= end < size:
        ids[ids == end] = (end + 1) % size
        ids[-1] = end
    words = {"input_ids": ids[None]}
    if "attention_mask" in taken:
        words["attention_mask"] = torch.ones_like(words["input_ids"])
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        words["decoder_input_ids"] = words["input_ids"]
    return words
