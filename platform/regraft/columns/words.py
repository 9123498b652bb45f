"""`words`: a text that is split into words."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import Allowance, BadCell, Column, MadeUp, Widget, quoted, received_text
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.prose import language_of
from regraft.units import with_article

_DIFFERENT = 20
"""Different words of a sample, below which they are labels."""


class WordsColumn(Column):
    """A list of words; for prediction, a text is accepted too."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.string())
    plain: ClassVar[str] = "words"
    bare: ClassVar[bool] = True
    widget: ClassVar[Widget] = "text"

    def read_cell(self, cell: object, folder: str) -> list[str]:
        """Return a list of words."""
        if not isinstance(cell, list | tuple):
            raise BadCell.unfit(cell, "a list of words")
        for word in cell:
            if not isinstance(word, str):
                raise BadCell(f"holds {quoted(word)}; a word is text")
        return list(cell)

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise lists of words, most of which are no tags."""
        words = [word for words in sample.lists or () for word in words]
        if not words or not all(isinstance(word, str) for word in words) or len(set(map(str, words))) < _DIFFERENT:
            return None
        return Likeness(0.7, f"lists of {len(words) / len(sample.cells):.0f} words on average")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return the language of the words."""
        return "language", language_of([" ".join(map(str, words)) for words in sample.lists or ()])

    def as_written(self, cell: object) -> str:
        """Return `text` for a cell that holds one text: the task splits it."""
        return "text" if isinstance(cell, str) else self.key()

    def accept(self, value: Any) -> Any:
        """Return a str, or a list of str."""
        value = value.tolist() if hasattr(value, "tolist") else value
        words = isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
        if not isinstance(value, str) and not words:
            raise BadCell(f"is {with_article(type(value).__name__)}; allowed is a list of words, or one text")
        return value

    def receive(self, value: Any, allowance: Allowance) -> Any:
        """Return a JSON string, or a list of strings."""
        return [received_text(word) for word in value] if isinstance(value, list) else received_text(value)

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a string or a list of strings."""
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

    def example(self, position: int) -> str:
        """Return a sentence with names."""
        return "Ada Lovelace lived in London"

    def made_up(self, shared: MadeUp) -> list[str]:
        """Return the row's words."""
        return list(shared.words)

    def plain_input(self, value: Any) -> str:
        """Return the words with spaces between them."""
        return " ".join(map(str, value))
