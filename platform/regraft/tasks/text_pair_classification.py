"""Classification of text pairs: entailment, paraphrase, whether a text answers a question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from regraft.contracts import Kind
from regraft.tasks.inputs.text import TextRow
from regraft.tasks.outputs.single_label import SingleLabel


class TextPairClassification(SingleLabel, TextRow):
    """One label for each pair of texts, joined as the base's own tokenizer does it."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"nli", "natural-language-inference", "entailment", "sentence-pair-classification", "paraphrase-detection"}
    )
    inputs: ClassVar[tuple[str, ...]] = ("text", "pair")
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "pair": "text", "label": "label"}
    supports: ClassVar[frozenset[str]] = frozenset(
        {"class_weights", "label_smoothing", "bucketing", "baselines", "prototypes", "features", "classes"}
    )

    max_length: int | None = Field(None, ge=8)
    """Tokens of both texts together that are read; null is what the base can read, at most 256."""
