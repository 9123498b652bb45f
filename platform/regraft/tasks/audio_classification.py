"""Audio classification: one label for each sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from regraft.contracts import Answer, Batch, Context, Kind, Record
from regraft.tasks.inputs.audio import AudioRow
from regraft.tasks.outputs.single_label import SingleLabel
from regraft.tasks.outputs.window_mean import mean_over_windows


class AudioClassification(SingleLabel, AudioRow):
    """One label for each sound, resampled to the base's rate; the scores of a long one are the mean over windows."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"sound-classification", "audio-classifier", "speech-classification", "keyword-spotting", "audio-tagging"}
    )
    columns: ClassVar[Mapping[str, Kind]] = {"audio": "audio", "label": "label"}
    supports: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing", "baselines", "classes"})

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of the mean over each row's windows, as (sum, weight)."""
        return super().loss(mean_over_windows(output, batch), batch, context)

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return the records of the mean over each row's windows."""
        return super().records(mean_over_windows(output, batch), batch, context)

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return the answers of the mean over each row's windows."""
        return super().answers(mean_over_windows(output, batch), batch, context)
