"""`labels`: any number of classes for a row, or one for each box."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, ClassVar

import pyarrow as pa

from regraft.columns.label import MADE_UP, LabelColumn
from regraft.contracts.column import BadCell, Column, MadeUp, quoted
from regraft.contracts.views import AnswerView, ShownRow, likeliest, short_text

_LABEL = LabelColumn()
_JOINED = re.compile("[,;]")


class LabelsColumn(Column):
    """A list of labels; one for each box where the task has boxes."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.string())
    target: ClassVar[bool] = True
    classes: ClassVar[bool] = True
    counted: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> list[str]:
        """Return labels. A CSV cell holds JSON (`["a", "b"]`) or bars between them (`a|b`); empty means none."""
        if isinstance(cell, str):
            cell = _split(cell)
        if not isinstance(cell, list | tuple):
            raise BadCell.unfit(cell, "a list of labels")
        return [_LABEL.read_cell(label, folder) for label in cell]

    def labels(self, value: Any) -> Iterable[str]:
        """Return the labels."""
        found: list[str] = value
        return found

    def doubts(self, labels: Iterable[str]) -> str | None:
        """Return a warning about labels joined by commas: they are one label, which is rarely meant."""
        known = set(labels)
        for label in self.in_order(known):
            parts = [part.strip() for part in _JOINED.split(label)]
            if len(parts) > 1 and (other := next((part for part in parts if part in known), None)):
                several = "|".join(parts)
                advice = f"if these are several, write {several!r}, or a JSON list"
                return f"{label!r} is one label, beside the label {other!r}: {advice}"
        return None

    def answer_view(self, shown: ShownRow) -> AnswerView:
        """Return the labels as a set beside the model's."""
        name = shown.targets[0]
        truth, predicted = (
            tuple(map(short_text, found)) for found in (shown.row[name], shown.answer.get("labels", ()))
        )
        return AnswerView(name, truth, predicted, likeliest(shown.answer), several=True)

    def made_up(self, shared: MadeUp) -> list[str]:
        """Return a list of one label."""
        return [_LABEL.made_up(shared)]

    def made_up_labels(self) -> tuple[str, ...]:
        """Return the labels of all rows."""
        return MADE_UP


def _split(text: str) -> object:
    if not text.lstrip().startswith("["):
        return [part for part in text.split("|") if part.strip()]
    try:
        return json.loads(text)
    except ValueError:
        raise BadCell(f"is {quoted(text)}, which is not a JSON list") from None
