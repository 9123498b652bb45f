"""Text classification: one label for each text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.text import TextRow
from regraft.tasks.outputs.single_label import SingleLabel


class TextClassification(SingleLabel, TextRow):
    """One label for each text; longer texts are cut at `max_length` tokens."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"sentiment-analysis", "sentiment", "sequence-classification", "topic-classification", "intent-classification"}
    )
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "label": "label"}
    supports: ClassVar[frozenset[str]] = frozenset(
        {"class_weights", "label_smoothing", "bucketing", "baselines", "prototypes", "features", "classes"}
    )
