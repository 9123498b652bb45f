"""Text regression: numbers for each text, such as a rating, a price or an age."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.text import TextRow
from regraft.tasks.outputs.regression import Regression


class TextRegression(Regression, TextRow):
    """One number for each text, or several: `targets` names their columns."""

    synonyms: ClassVar[frozenset[str]] = frozenset({"regression", "sequence-regression"})
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "target": "number"}
    supports: ClassVar[frozenset[str]] = frozenset({"features", "bucketing"})
