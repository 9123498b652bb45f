"""`defect`: the kind of a row's defect, or a word for good ones."""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import BadCell, Column, MadeUp, absent, label_text, quoted
from regraft.contracts.views import AnswerView, ShownRow, short_text

MADE_UP = ("good", "scratch", "dent")


class DefectColumn(Column):
    """The kind of a defect as text, or a word for good rows; a row without a value is good."""

    arrow: ClassVar[pa.DataType] = pa.string()
    target: ClassVar[bool] = True
    optional: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> str:
        """Return the kind of the defect."""
        if isinstance(cell, str | int) or (isinstance(cell, float) and cell.is_integer()):
            if kind := label_text(cell):
                return kind
            raise BadCell("is empty; a kind of defect is text")
        raise BadCell("is missing" if absent(cell) else f"is {quoted(cell)}; a kind of defect is text")

    def answer_view(self, shown: ShownRow) -> AnswerView:
        """Return the kind of the defect beside what the model found."""
        name, answer = shown.targets[0], shown.answer
        found = "an anomaly" if answer.get("is_anomaly") else "as usual"
        chance = answer.get("p_value")
        text = found if chance is None else f"{found}, p-value {chance:.3g}"
        return AnswerView(name, (short_text(shown.row[name] or MADE_UP[0]),), (text,))

    def made_up(self, shared: MadeUp) -> str:
        """Return one of three kinds."""
        return MADE_UP[shared.number % len(MADE_UP)]

    def request_schema(self) -> dict[str, Any]:
        """Return nothing: requests hold no targets."""
        return {}
