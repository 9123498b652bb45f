"""`audio`: a base that reads sound."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from regraft.contracts.medium import Medium, PipelineValue
from regraft.media.sounds.processor_input import fixed_seconds, rate_of, sound_inputs
from regraft.media.sounds.sounds import Span, read_spans, sound_header

_STEPS = 8
"""Steps of a dummy sound, after the convolutions at a base's beginning."""
_LONGEST_S = 30.0
"""Seconds that a base alone reads where its feature extractor has no length of its own."""


class AudioMedium(Medium):
    """Sound of one channel, which the base's feature extractor takes at its own rate."""

    noun: ClassVar[str] = "a feature extractor"
    auto: ClassVar[str] = "AutoFeatureExtractor"
    files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json", "processor_config.json")
    libraries: ClassVar[tuple[str, ...]] = ("soundfile", "scipy")
    column: ClassVar[str] = "audio"
    averages: ClassVar[bool] = True
    pipeline_value: ClassVar[PipelineValue | None] = PipelineValue(
        "import numpy",
        'sound = numpy.zeros(model.feature_extractor.sampling_rate, "float32")  # for example; yours has this rate',
        "sound",
    )

    def found_in(self, folder: Path) -> bool:
        """Return whether there is a processor's file that states a sampling rate."""
        return any("sampling_rate" in _settings(folder / name) for name in self.files)

    def tensors(self, processor: Any, value: Any) -> dict[str, Tensor]:
        """Return the inputs for the beginning of a sound: as much as the feature extractor takes, or 30 seconds."""
        rate, seconds = rate_of(processor), fixed_seconds(processor) or _LONGEST_S
        header = sound_header(value)
        samples = read_spans(value, [Span(0, min(header.frames, round(seconds * header.rate)))], rate)[0]
        return sound_inputs(samples, processor, len(samples))

    def dummy_inputs(self, config: Any, taken: Container[str]) -> Iterator[dict[str, Tensor]]:
        """Yield a short sound, or a spectrogram of the base's own size, where the model takes one."""
        bins = getattr(config, "num_mel_bins", None)
        if "input_values" in taken and bins and getattr(config, "max_length", None):
            yield {"input_values": _ramp(1, int(config.max_length), int(bins))}
        elif "input_values" in taken:
            yield {"input_values": _ramp(1, _samples(config, _STEPS))}
        elif "input_features" in taken and bins and getattr(config, "max_source_positions", None):
            yield {"input_features": _ramp(1, int(bins), 2 * int(config.max_source_positions))}
        elif "input_features" in taken and (width := getattr(config, "feature_projection_input_dim", None)):
            yield {"input_features": _ramp(1, 2 * _STEPS, int(width))}


def _samples(config: Any, steps: int) -> int:
    """Return the samples that the convolutions at a base's beginning turn into so many steps."""
    kernels: Mapping[str, Any] = {"conv_kernel": (400,), "conv_stride": (320,)}
    sizes, strides = (tuple(getattr(config, name, None) or usual) for name, usual in kernels.items())
    count = steps
    for size, stride in reversed(list(zip(sizes, strides, strict=False))):
        count = (count - 1) * stride + size
    return int(count)


def _ramp(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, prod(shape)).reshape(shape)


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # the processor says what is wrong with its file when it is loaded
    if not isinstance(found, dict):
        return {}
    inner = found.get("feature_extractor")  # a processor's file holds that of its feature extractor
    return {**found, **inner} if isinstance(inner, dict) else found
