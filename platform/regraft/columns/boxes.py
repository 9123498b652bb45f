"""`boxes`: rectangles on an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from regraft.columns.image import ImageColumn
from regraft.columns.number import NumberColumn
from regraft.contracts.column import BadCell, Column, MadeUp, column_of, quoted
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.rows import Answer
from regraft.contracts.views import Box, BoxesView, ShownRow
from regraft.errors import DataError
from regraft.media.pixels.annotated_boxes import AnnotatedBoxes
from regraft.media.pixels.picture_sizes import picture_size

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
        boxes = [[_NUMBER.read_cell(side, folder) for side in box] for box in cell]
        return (
            AnnotatedBoxes.of(boxes, cell.form, cell.size, cell.remark) if isinstance(cell, AnnotatedBoxes) else boxes
        )

    def in_row(self, value: Any, row: Mapping[str, Any], columns: Mapping[str, Column]) -> list[list[float]]:
        """Return boxes in pixels of the row's upright image, where their file says something else about them."""
        name = next((name for name, column in columns.items() if _is_input(column)), None)
        if name is None or not isinstance(value, AnnotatedBoxes) or (value.form == "xywh" and value.size is None):
            return list(value) if not isinstance(value, list) else value
        try:
            return value.in_picture(picture_size(columns[name].for_check(row[name])))
        except DataError as error:
            raise BadCell(f"cannot be placed: {error.message}") from None

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise lists of four numbers each."""
        boxes = [box for boxes in sample.lists or () for box in boxes]
        fit = boxes and all(isinstance(box, list | tuple) and len(box) == 4 for box in boxes)
        return Likeness(0.9, f"lists of {len(boxes) / len(sample.cells):.1f} boxes on average") if fit else None

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return how many boxes a picture has."""
        counts = sorted(len(boxes) for boxes in sample.lists or ())
        return ("boxes", f"{counts[0]:,} to {counts[-1]:,} a picture, in a sample") if counts else None

    def stored(self, value: Any) -> list[list[float]]:
        """Return plain lists."""
        return list(value)

    def remark(self, value: Any) -> str | None:
        """Return what was assumed about the boxes, or None."""
        return value.remark if isinstance(value, AnnotatedBoxes) else None

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


def _is_input(column: Column) -> bool:
    return isinstance(column, ImageColumn) and not column.target


def _objects(answer: Answer) -> Iterator[Box]:
    for item in answer.get("objects", ()):
        left, top, right, bottom = (item["box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
        yield Box(str(item["label"]), left, top, right - left, bottom - top, float(item["score"]))
