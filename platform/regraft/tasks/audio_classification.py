"""Audio classification: one label for each sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.audio import AudioRow
from regraft.tasks.outputs.single_label import SingleLabel


class AudioClassification(SingleLabel, AudioRow):
    """One label for each sound, resampled to the base's rate; the scores of a long one are the mean over windows."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"sound-classification", "audio-classifier", "speech-classification", "keyword-spotting", "audio-tagging"}
    )
    columns: ClassVar[Mapping[str, Kind]] = {"audio": "audio", "label": "label"}
    supports: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing", "baselines", "classes"})
