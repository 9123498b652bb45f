"""`point`: a place on a plane."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts import BadCell, Column, MadeUp
from regraft.contracts.views import AnswerView, ShownRow


class Point(Column):
    """Two numbers, x and y; in a table with a space between them."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.float64())
    target: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> list[float]:
        """Return x and y."""
        found = cell.split() if isinstance(cell, str) else cell
        try:
            numbers = [float(number) for number in found]  # type: ignore[attr-defined]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
            raise BadCell.unfit(cell, "a point of two numbers")
        return numbers

    def accept(self, value: Any) -> Any:
        """Return two numbers."""
        return self.read_cell(value, "")

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a list of two numbers."""
        return {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}

    def example(self, position: int) -> list[float]:
        """Return a place."""
        return [0.25, 0.75]

    def is_one(self, items: list[Any]) -> bool:
        """Return whether the list is one point."""
        return len(items) == 2 and not any(isinstance(item, list) for item in items)

    def made_up(self, shared: MadeUp) -> list[float]:
        """Return a place of the row's own."""
        return [0.1 * shared.number, 0.5]

    def answer_view(self, shown: ShownRow) -> AnswerView:
        """Return the true place beside the predicted one."""
        truth, predicted = (
            tuple(f"{name} {number:.2f}" for name, number in zip("xy", place, strict=True))
            for place in (shown.row[shown.targets[0]], shown.answer["point"])
        )
        return AnswerView(shown.targets[0], truth, predicted)
