"""Sounds as a base's inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, ClassVar, Self

from pydantic import Field
from torch import nn

from regraft.contracts import Batch, Context, Example, Loader, Row, windowed, windows_of
from regraft.contracts.file_ref import FileRef
from regraft.errors import DataError
from regraft.media.sounds.processor_input import fixed_seconds, rate_of, sound_inputs
from regraft.media.sounds.sounds import read_spans, sound_header
from regraft.media.sounds.windows import spread
from regraft.tasks.outputs.one_vector import OneVector
from regraft.tasks.outputs.window_mean import stacked_windows

LONGEST_WINDOW_S = 10.0
"""Longest window that is chosen by itself: a wav2vec2 of 95 M parameters takes about a gigabyte for one in training."""
_LOOKED_AT = 1_000
"""Training rows of which the length is looked at."""
_STEADY = {"apply_spec_augment": False, "layerdrop": 0.0}
"""Settings of bases that hide parts of the input, and skip layers, at random while they train."""


class AudioRow(OneVector):
    """Half of a task: a row is a sound, resampled to the base's rate and read in windows of one length."""

    auto: ClassVar[str] = "AutoModelForAudioClassification"
    modality: ClassVar[str] = "audio"

    seconds: float | None = Field(None, ge=0.1, le=60)
    """Seconds of a window; null is the length to which the base's feature extractor cuts every sound, and without one
    that of the longest training row, at most 10. A shorter sound gets silence at its end."""
    windows: int = Field(8, ge=1, le=100)
    """Most windows of a longer sound, spread evenly over it; its scores are the mean of theirs."""
    longest: float | None = Field(None, ge=0)
    """Seconds of the longest training row; null is filled in when a run begins."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base's own classifier, which hides nothing of its inputs at random and skips no layer."""
        steady = {name: value for name, value in _STEADY.items() if hasattr(load.config, name)}
        return load(self.auto, labels=self.outputs(labels), problem_type=self.problem, **steady)

    def fit_to_sample(self, rows: Iterable[Row]) -> Self:
        """Return the task with `longest` as the training rows have it, unless it is written."""
        if self.longest is not None:
            return self
        seconds = (_seconds(row["audio"]) for row in islice(rows, _LOOKED_AT))
        return self.model_copy(update={"longest": math.ceil(max(seconds, default=0.0) * 100) / 100})

    def check(self, row: Row) -> str | None:
        """Refuse a sound that cannot be read, or is too long; one of the data was decoded when it was read."""
        value = row["audio"]
        if not (isinstance(value, FileRef) and value.sha256):
            try:
                sound_header(value)
            except DataError as error:
                return str(error)
        return super().check(row)

    def remark(self, row: Row) -> str | None:
        """Return a remark about a sound that is longer than a window."""
        window = self.seconds or LONGEST_WINDOW_S
        if _seconds(row["audio"]) <= window:
            return super().remark(row)
        return (
            f"sounds are longer than {window:g} seconds: where the base reads no more at once, scores are the mean "
            f"over up to {self.windows} windows"
        )

    def window_seconds(self, processor: Any) -> float:
        """Return the seconds of a window."""
        fixed = fixed_seconds(processor)
        if self.seconds is not None:
            return self.seconds if fixed is None else min(self.seconds, fixed)
        return fixed or max(0.1, min(self.longest or LONGEST_WINDOW_S, LONGEST_WINDOW_S))

    def length(self, row: Row) -> int:
        """Return tenths of a second, so that the longest rows are known; 1 for a sound in S3."""
        return max(1, math.ceil(10 * _seconds(row["audio"])))

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return the inputs of each window, (1, ...), and `labels` where the row has its target.

        They are `input_values` or `input_features`, and `attention_mask` where the base marks silence at the end.
        """
        processor, value = context.processor, row["audio"]
        rate, seconds = rate_of(processor), self.window_seconds(processor)
        header = sound_header(value)
        spans = spread(header.frames, max(1, round(seconds * header.rate)), self.windows)
        inputs = [sound_inputs(part, processor, round(seconds * rate)) for part in read_spans(value, spans, rate)]
        parts = [{name: tensor[None] for name, tensor in each.items()} for each in inputs]
        return windowed([self.with_target(part, row, context) for part in parts])

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return the inputs of all windows, (windows, ...), and how many each row has where one has several.

        `labels` (rows, ...) is among them if every example has it.
        """
        return self.with_targets(stacked_windows(examples), [windows_of(example)[0] for example in examples])


def _seconds(value: Any) -> float:
    """Return a sound's length; 0 for one in S3, of which nothing is fetched, and for one that cannot be read."""
    if isinstance(value, str) and "://" in value:
        return 0.0
    try:
        return sound_header(str(value) if isinstance(value, FileRef) else value).seconds
    except DataError:
        return 0.0
