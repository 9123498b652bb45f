"""`text`: one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import Allowance, BadCell, Column, MadeUp, Widget, absent, received_text
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.prose import language_of, prose
from regraft.units import counted, with_article

EXAMPLES = ("the lamp drops off wifi every night", "the light loses its connection at night")


class TextColumn(Column):
    """A text."""

    arrow: ClassVar[pa.DataType] = pa.string()
    joins: ClassVar[bool] = True
    bare: ClassVar[bool] = True
    plain: ClassVar[str] = "words"
    widget: ClassVar[Widget] = "text"

    def read_cell(self, cell: object, folder: str) -> str:
        """Return the cell, which must be text: numbers are not turned into it."""
        if isinstance(cell, str):
            return cell
        several = ""
        if isinstance(cell, list | tuple) and len(cell) > 1 and all(isinstance(item, str) for item in cell):
            several = f"a list of {len(cell)} texts"
        elif isinstance(cell, dict) and cell and all(str(key).isdecimal() for key in cell):
            several = f"an object with {counted(len(cell), 'number')} as keys"
        if several:
            raise BadCell(
                f"is {several}; one text is wanted. If the file holds whole columns, write orient: columns in "
                "data.format"
            )
        raise BadCell.unfit(cell, "text")

    def join(self, cells: Mapping[str, object], folder: str) -> str:
        """Return the texts of several columns joined by line breaks; empty and missing ones are left out."""
        texts = []
        for name, cell in cells.items():
            try:
                texts.append("" if absent(cell) else self.read_cell(cell, folder))
            except BadCell as error:
                raise BadCell(f"{name}: {error}") from None
        return "\n".join(text for text in texts if text.strip())

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise prose: texts of several words, most of which differ."""
        found = prose(sample.texts or ())
        if found is None or sample.distinct * 5 < sample.rows:
            return None
        return Likeness(0.8, f"{sample.distinct:,} different texts of {found.words:.0f} words on average")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return the language of the texts."""
        return ("language", language_of(sample.texts)) if sample.texts else None

    def accept(self, value: Any) -> str:
        """Return a str."""
        if not isinstance(value, str):
            advice = ": decode it" if isinstance(value, bytes) else ""
            raise BadCell(f"is {with_article(type(value).__name__)}; allowed is text{advice}")
        return value

    def receive(self, value: Any, allowance: Allowance) -> str:
        """Return a JSON string."""
        return received_text(value)

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a string."""
        return {"type": "string"}

    def example(self, position: int) -> str:
        """Return a sentence; the second input of a pair says the same in other words."""
        return EXAMPLES[min(position, 1)]

    def made_up(self, shared: MadeUp) -> str:
        """Return the row's words."""
        return " ".join(shared.words)

    def plain_input(self, value: Any) -> str:
        """Return the text."""
        return str(value)
