"""`boxes`: rectangles on an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pyarrow as pa

from regraft.columns.image import ImageColumn
from regraft.columns.number import NumberColumn
from regraft.contracts.column import BadCell, Column, MadeUp, column_of, quoted
from regraft.contracts.rows import Answer
from regraft.contracts.views import Box, BoxesView, ShownRow

_NUMBER = NumberColumn()


class BoxesColumn(Column):
    """A list of boxes: [x, y, width, height] in pixels."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.list_(pa.float64()))
    target: ClassVar[bool] = True
    drawn: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> list[list[float]]:
        """Return a list of boxes."""
        if not isinstance(cell, list | tuple):
            raise BadCell.unfit(cell, "a list of boxes")
        for box in cell:
            if not isinstance(box, list | tuple) or len(box) != 4 or any(isinstance(side, str) for side in box):
                raise BadCell(f"holds {quoted(box)}; a box is four numbers: x, y, width, height in pixels")
        return [[_NUMBER.read_cell(side, folder) for side in box] for box in cell]

    def drawn_on(self, input_name: str, name: str, shown: ShownRow) -> BoxesView | None:
        """Return an image with the true boxes and the predicted ones."""
        kind = column_of(shown.kinds[input_name])
        if not isinstance(kind, ImageColumn):
            return None
        labels = shown.target_of("labels") or [""] * len(shown.row[name])
        truth = tuple(Box(label, *box) for label, box in zip(labels, shown.row[name], strict=True))
        return BoxesView(input_name, kind.view(input_name, shown).picture, truth, tuple(_objects(shown.answer)))

    def made_up(self, shared: MadeUp) -> list[list[float]]:
        """Return one box inside any image of at least 16 x 15 pixels."""
        return [[4.0, 5.0, 12.0, 10.0]]


def _objects(answer: Answer) -> Iterator[Box]:
    for item in answer.get("objects", ()):
        left, top, right, bottom = (item["box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
        yield Box(str(item["label"]), left, top, right - left, bottom - top, float(item["score"]))
