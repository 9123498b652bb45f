"""Small dummy inputs for a model, made from its configuration alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from regraft.bases.timm import input_shape
from regraft.contracts import Medium, medium_of

TOKENS = 6
SIDE = 64
"""Height and width in pixels: small, and a multiple of the patch sizes and strides of most models."""


def dummy_inputs(model: nn.Module, base: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield inputs of one row for the forward pass of `model`, the cheapest first.

    Yields none for a model that takes neither tokens nor pixels, and that no medium has inputs for.
    """
    config: Any = getattr(base, "config", None) or getattr(model, "config", None)
    taken = inspect.signature(model.forward).parameters
    device = next(base.parameters()).device
    if "pixel_values" in taken:
        for height, width in dict.fromkeys(_image_sizes(config)):
            shape = 1, _channels(config), height, width
            pixels = torch.linspace(-1, 1, height * width * shape[1], device=device).reshape(shape)
            yield {"pixel_values": pixels, **(_tokens(config, taken, device) if "input_ids" in taken else {})}
    elif "input_ids" in taken:
        yield _tokens(config, taken, device)
    else:
        for modality in Medium.names():
            for inputs in medium_of(modality).dummy_inputs(config, taken):
                yield {name: tensor.to(device) for name, tensor in inputs.items()}


def _setting(config: Any, name: str) -> Any:
    """Return a field of the configuration or of the first of its parts (`vision_config`) that has it."""
    parts = (config, getattr(config, "vision_config", None), getattr(config, "text_config", None))
    return next((value for part in parts if (value := getattr(part, name, None)) is not None), None)


def _channels(config: Any) -> int:
    named = input_shape(config)
    return named[0] if named else int(_setting(config, "num_channels") or 3)


def _image_sizes(config: Any) -> Iterator[tuple[int, int]]:
    """Yield (height, width) in pixels: a small size, then the model's own."""
    size = _setting(config, "image_size") or (input_shape(config) or ())[1:]
    if isinstance(size, int):
        size = size, size
    native = tuple(size) if size and isinstance(size, list | tuple) else (224, 224)
    yield min(SIDE, native[0]), min(SIDE, native[1])
    yield native[0], native[1]


def _tokens(config: Any, taken: Any, device: torch.device) -> dict[str, Tensor]:
    """Return distinct ordinary tokens, (1, TOKENS), ended by the end-of-sequence token that some classifiers need."""
    size = int(_setting(config, "vocab_size") or TOKENS)
    ids = torch.arange(size // 2, size // 2 + TOKENS, device=device) % size
    end = _setting(config, "eos_token_id")
    if isinstance(end, int) and 0 <= end < size:
        ids[ids == end] = (end + 1) % size
        ids[-1] = end
    inputs = {"input_ids": ids[None]}
    if "attention_mask" in taken and device.type != "meta":  # where models read its values, and there are none
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    return inputs
