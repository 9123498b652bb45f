"""`tokens`: numbers of a tokenizer's vocabulary, which a task makes by `pack`."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from regraft.contracts.column import BadCell, Column


class TokensColumn(Column):
    """A list of token numbers. A task makes it by `pack`; no file holds it."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.int32())

    def read_cell(self, cell: object, folder: str) -> list[int]:
        """Raise BadCell: no file holds tokens."""
        raise BadCell("holds tokens, which no file brings")
