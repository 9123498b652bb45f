"""`boxes`: rectangles on an image."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from regraft.columns.number import NumberColumn
from regraft.contracts.column import BadCell, Column, MadeUp, quoted

_NUMBER = NumberColumn()


class BoxesColumn(Column):
    """A list of boxes: [x, y, width, height] in pixels."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.list_(pa.float64()))
    target: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> list[list[float]]:
        """Return a list of boxes."""
        if not isinstance(cell, list | tuple):
            raise BadCell.unfit(cell, "a list of boxes")
        for box in cell:
            if not isinstance(box, list | tuple) or len(box) != 4 or any(isinstance(side, str) for side in box):
                raise BadCell(f"holds {quoted(box)}; a box is four numbers: x, y, width, height in pixels")
        return [[_NUMBER.read_cell(side, folder) for side in box] for box in cell]

    def made_up(self, shared: MadeUp) -> list[list[float]]:
        """Return one box inside any image of at least 16 x 15 pixels."""
        return [[4.0, 5.0, 12.0, 10.0]]
