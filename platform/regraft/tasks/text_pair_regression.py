"""Regression on text pairs: how similar two texts are, how well one answers the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from regraft.contracts import Kind
from regraft.tasks.inputs.text import TextRow
from regraft.tasks.outputs.regression import Regression


class TextPairRegression(Regression, TextRow):
    """One number for each pair of texts, or several: `targets` names their columns."""

    synonyms: ClassVar[frozenset[str]] = frozenset({"sts", "sentence-similarity", "semantic-textual-similarity"})
    inputs: ClassVar[tuple[str, ...]] = ("text", "pair")
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "pair": "text", "target": "number"}
    supports: ClassVar[frozenset[str]] = frozenset({"features", "bucketing"})

    max_length: int | None = Field(None, ge=8)
    """Tokens of both texts together that are read; null is what the base can read, at most 256."""
