"""Minimal tasks with each kind of column; no model is built for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from regraft.contracts import Answer, Batch, Context, Example, Kind, Record, Row, Score, Task


class _Rowwise(Task):
    auto: ClassVar[str] = "AutoModel"
    modality: ClassVar[Literal["text", "image"]] = "text"
    score: ClassVar[Score] = Score("accuracy", "max")

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        raise NotImplementedError

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        raise NotImplementedError

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        raise NotImplementedError

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        raise NotImplementedError

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        raise NotImplementedError


class Sorting(_Rowwise):
    """Classifies texts; a text with `bad` in it is refused."""

    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "label": "label"}
    stretch: int = 1
    """Factor of the lengths."""

    def check(self, row: Row) -> str | None:
        return "text is bad" if row["text"] == "bad" else None

    def length(self, row: Row) -> int:
        return self.stretch * len(row["text"])


class Rating(_Rowwise):
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "value": "number"}


class Reading(_Rowwise):
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text"}


class Seeing(_Rowwise):
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "label": "label"}


class Hearing(_Rowwise):
    columns: ClassVar[Mapping[str, Kind]] = {"audio": "audio", "label": "label"}


class Finding(_Rowwise):
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "boxes": "boxes", "labels": "labels"}


class Outlining(_Rowwise):
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "mask": "mask"}


class Tagging(_Rowwise):
    columns: ClassVar[Mapping[str, Kind]] = {"tokens": "words", "tags": "tags"}
