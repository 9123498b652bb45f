"""Multi-label text classification: any number of labels for each text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.text import TextRow
from regraft.tasks.outputs.multi_label import MultiLabel


class TextMultiLabel(MultiLabel, TextRow):
    """Any number of labels for each text; each label is present or not."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"multi-label-classification", "multilabel-classification", "multi-label", "multi-label-text-classification"}
    )
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "labels": "labels"}
    supports: ClassVar[frozenset[str]] = frozenset({"features", "classes", "class_weights", "bucketing"})
