"""The inputs of a model for a sound, made by the base's feature extractor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regraft.media.sounds.sounds import Samples

SHORTEST_S = 0.1
"""Shorter sounds are lengthened by silence: layers at the beginning of a base take a few hundredths of a second."""
_TAKEN = ("input_values", "input_features", "attention_mask")
_FRAMES_A_SECOND = 100
"""Steps of the spectrograms that feature extractors make, with one each 10 ms."""


def rate_of(processor: Any) -> int:
    """Return the samples a second that a feature extractor takes."""
    return int(processor.sampling_rate)


def fixed_seconds(processor: Any) -> float | None:
    """Return the length to which a feature extractor cuts or pads every sound; None where it does not."""
    if samples := getattr(processor, "n_samples", None):
        return float(samples) / rate_of(processor)
    steps = getattr(processor, "max_length", None)
    if isinstance(steps, int) and getattr(processor, "num_mel_bins", None):
        return steps / _FRAMES_A_SECOND
    return None


def sound_inputs(samples: Samples, processor: Any, length: int) -> dict[str, Tensor]:
    """Return one sound as a model's inputs, without a dimension for rows; shorter ones get silence up to `length`.

    Where the feature extractor marks silence that was added, `attention_mask` says so.
    """
    given: dict[str, Any] = {}
    shortest = round(SHORTEST_S * rate_of(processor))
    samples, length = lengthened(samples, shortest), max(length, shortest)
    if fixed_seconds(processor) is None and getattr(processor, "feature_size", 1) == 1:
        given = {"padding": "max_length", "max_length": length, "truncation": True}
    elif len(samples) < length and fixed_seconds(processor) is None:
        samples = lengthened(samples, length)
    found = processor(samples, sampling_rate=rate_of(processor), return_tensors="np", **given)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(found[name][0])) for name in _TAKEN if name in found}
    return {name: tensor.long() if name == "attention_mask" else tensor.float() for name, tensor in tensors.items()}


def lengthened(samples: Samples, length: int) -> Samples:
    """Return samples with silence behind them up to a length."""
    return np.pad(samples, (0, max(0, length - len(samples))))
