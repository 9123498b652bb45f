"""`number`: one number."""

from __future__ import annotations

import math
import re
import statistics
from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import Allowance, BadCell, Column, MadeUp, Widget, json_name
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import AnswerView, ShownRow, predicted_text, short_text
from regraft.units import with_article

LARGEST = 1 << 63
"""Whole numbers of a request are no larger: Python's have any number of digits."""
_NAMES_ROWS = re.compile(r"(^|[_ .-])(id|index|idx|number|nr|no|key)$", re.IGNORECASE)
"""Names of columns whose numbers name the rows."""
_FEW = 20
"""Different whole numbers that may as well be the names of classes."""
MOST = 1e300
"""The largest number of a file: the distance of two larger ones would be infinite."""


class NumberColumn(Column):
    """A finite number."""

    arrow: ClassVar[pa.DataType] = pa.float64()
    widget: ClassVar[Widget] = "number"

    def read_cell(self, cell: object, folder: str) -> float:
        """Return a finite number, also from text."""
        if isinstance(cell, str | int | float) and not isinstance(cell, bool):
            try:
                number = float(cell)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return _within(number)
        raise BadCell.unfit(cell, "a finite number")

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise numbers that do not name the rows, and are no pair of classes."""
        numbers = sample.numbers
        if numbers is None or sample.distinct <= 2:
            return None
        low, high = min(numbers), max(numbers)
        whole = all(number.is_integer() for number in numbers)
        if _NAMES_ROWS.search(sample.name) or (whole and sample.distinct == sample.rows and sample.rows >= _FEW):
            return None
        strength = 0.6 if whole and sample.distinct <= _FEW else 0.8
        return Likeness(strength, f"{sample.distinct:,} different numbers from {low:g} to {high:g}")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return mean and spread of the numbers."""
        numbers = sample.numbers
        if numbers is None or len(numbers) < 2:
            return None
        return "spread", f"mean {statistics.fmean(numbers):.3g}, standard deviation {statistics.stdev(numbers):.3g}"

    def accept(self, value: Any) -> float:
        """Return an int or a float, also of NumPy's."""
        value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadCell(f"is {with_article(type(value).__name__)}; allowed is a number")
        return value

    def receive(self, value: Any, allowance: Allowance) -> float:
        """Return a JSON number of ordinary size."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadCell(f"is {with_article(json_name(value))}; allowed is a number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise BadCell(f"has {len(str(abs(value)))} digits, which are more than a number here can have")
        return value

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a number."""
        return {"type": "number"}

    def example(self, position: int) -> float:
        """Return 1."""
        return 1.0

    def answer_view(self, shown: ShownRow) -> AnswerView:
        """Return the numbers of all targets beside the model's, each with its name where there are several."""
        row, targets = shown.row, shown.targets
        values = shown.answer.get("values", {})
        single = len(targets) == 1
        truth = tuple(short_text(row[name] if single else f"{name} {row[name]:.4g}") for name in targets)
        predicted = tuple(
            short_text(float(value) if single else f"{name} {value:.4g}") for name, value in values.items()
        )
        return AnswerView(targets[0], truth, predicted or predicted_text(shown.answer))

    def made_up(self, shared: MadeUp) -> float:
        """Return the row's own number."""
        return float(shared.number)


def _within(number: float) -> float:
    """Return a number of a file. Raises BadCell for one that nothing can be computed with."""
    if abs(number) > MOST:
        raise BadCell(f"is {number!r}, too large to compute with: allowed is at most {MOST:g}, so divide the column")
    return number
