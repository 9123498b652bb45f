"""`tokens`: numbers of a tokenizer's vocabulary, which a task makes by `pack`."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from regraft.contracts.column import BadCell, Column
from regraft.contracts.views import ShownRow, ViewPart, text_view


class TokensColumn(Column):
    """A list of token numbers. A task makes it by `pack`; no file holds it."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.int32())

    def read_cell(self, cell: object, folder: str) -> list[int]:
        """Raise BadCell: no file holds tokens."""
        raise BadCell("holds tokens, which cannot be read from a file")

    def view(self, name: str, shown: ShownRow) -> ViewPart | None:
        """Return the text of the first such column; the others mark which of its tokens count."""
        first = next(other for other, kind in shown.kinds.items() if kind == self.key() and other not in shown.targets)
        return text_view(name, str(shown.processor.decode(shown.row[name]))) if name == first else None
