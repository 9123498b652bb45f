"""`texts`: several texts, any of which is right."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from regraft.columns.text import TextColumn
from regraft.contracts.column import Column, MadeUp, Widget
from regraft.contracts.likeness import CellSample, Likeness

_TEXT = TextColumn()


class TextsColumn(Column):
    """A list of texts; a file may hold one text instead."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.string())
    widget: ClassVar[Widget] = "lines"

    def read_cell(self, cell: object, folder: str) -> list[str]:
        """Return a list of texts; one text becomes a list of one."""
        if isinstance(cell, list | tuple) and cell:
            return [_TEXT.read_cell(text, folder) for text in cell]
        return [_TEXT.read_cell(cell, folder)]

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise prose, one text a cell."""
        return _TEXT.likeness(sample)

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a list of strings."""
        return {"type": "array", "items": {"type": "string"}}

    def example(self, position: int) -> list[str]:
        """Return two short texts."""
        return ["one", "two"]

    def made_up(self, shared: MadeUp) -> list[str]:
        """Return the row's words as one text."""
        return [" ".join(shared.words)]
