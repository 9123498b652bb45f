"""`echo`: a base that reads sound."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from regraft.contracts import Medium


class EchoMedium(Medium):
    """Sound of one channel, cut or padded with silence to the frames that the base reads."""

    noun: ClassVar[str] = "a feature extractor"
    auto: ClassVar[str] = "AutoFeatureExtractor"
    files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json",)
    column: ClassVar[str] = "echo"

    def found_in(self, folder: Path) -> bool:
        """Return whether the processor's file is one of sounds."""
        path = folder / "preprocessor_config.json"
        return path.is_file() and "sampling_rate" in json.loads(path.read_text())

    def tensors(self, processor: Any, value: Any) -> dict[str, Tensor]:
        """Return `input_values` (frames, bins)."""
        with wave.open(io.BytesIO(value) if isinstance(value, bytes) else value) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16).astype(np.float32) / 2**15
        found = processor(
            samples, sampling_rate=processor.sampling_rate, max_length=128, truncation=True, padding="max_length"
        )
        return {"input_values": torch.tensor(found["input_values"][0]).reshape(16, 8)}

    def dummy_inputs(self, config: Any, taken: Any) -> Iterator[dict[str, Tensor]]:
        """Yield one spectrogram of the base's own size, where the model takes one."""
        if "input_values" in taken and hasattr(config, "num_mel_bins"):
            shape = 1, config.max_length, config.num_mel_bins
            yield {"input_values": torch.linspace(-1, 1, shape[1] * shape[2]).reshape(shape)}
