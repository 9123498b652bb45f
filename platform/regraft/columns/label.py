"""`label`: the one class of a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import BadCell, Column, MadeUp, absent, label_text, quoted
from regraft.contracts.label_names import look_alikes
from regraft.contracts.views import AnswerView, ShownRow, likeliest, predicted_text, short_text

MADE_UP = ("no", "yes", "perhaps")


class LabelColumn(Column):
    """The class of a row: text, or a whole number."""

    arrow: ClassVar[pa.DataType] = pa.string()
    target: ClassVar[bool] = True
    classes: ClassVar[bool] = True
    counted: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> str:
        """Return the label. Whole numbers become text; spaces around a label would make a class of their own."""
        if isinstance(cell, str | int) or (isinstance(cell, float) and cell.is_integer()):
            if label := label_text(cell):
                return label
            raise BadCell("is empty; every row needs a label")
        problem = "is missing; every row needs a label" if absent(cell) else f"is {quoted(cell)}; a label is text"
        raise BadCell(problem)

    def labels(self, value: Any) -> tuple[str, ...]:
        """Return the label."""
        return (value,)

    def lacking(self, labels: Mapping[str, int], rows: int) -> str | None:
        """Return the problem of fewer than two classes."""
        if len(labels) >= 2:
            return None
        return (
            f"{f'all {rows} training rows have' if rows > 1 else 'the only training row has'} the label "
            f"{next(iter(labels))!r}: a classifier needs two; add rows of "
            "another label, or say in data.columns which column holds the labels"
        )

    def doubts(self, labels: Iterable[str]) -> str | None:
        """Return a warning about two labels that are probably one, such as `1` and `1.0`, or `Yes` and `yes`."""
        return look_alikes(self.in_order(set(labels)))

    def answer_view(self, shown: ShownRow) -> AnswerView:
        """Return the label beside the likeliest ones."""
        name = shown.targets[0]
        truth = (short_text(shown.row[name]),)
        return AnswerView(name, truth, predicted_text(shown.answer), likeliest(shown.answer))

    def made_up(self, shared: MadeUp) -> str:
        """Return one of three labels."""
        return MADE_UP[shared.number % len(MADE_UP)]

    def made_up_labels(self) -> tuple[str, ...]:
        """Return the three labels."""
        return MADE_UP
