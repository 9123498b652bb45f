"""`labels`: any number of classes for a row, or one for each box."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from regraft.columns.label import MADE_UP, LabelColumn, balance_text
from regraft.contracts.column import BadCell, Column, MadeUp, absent, label_text, quoted
from regraft.contracts.label_names import look_alikes
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import AnswerView, ShownRow, likeliest, short_text

_LABEL = LabelColumn()
_JOINED = re.compile("[,;]")
_ESCAPE = r"\\(?:[\\'\"abfnrtv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})"
_QUOTED = rf"""'(?:[^'\\\n]|{_ESCAPE})*'|"(?:[^"\\\n]|{_ESCAPE})*\""""
_ITEM = re.compile(_QUOTED)
_LITERAL = re.compile(rf"[\[({{]\s*(?:(?:{_QUOTED})(?:\s*,\s*|\s+|(?=\s*[\])}}]$)))*[\])}}]")
"""Quoted items in brackets, with commas (Python) or only spaces (numpy) between them."""
_LONGEST = 60
_BRACKETS = ("[", "(", "{")
_MARKS = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", ""), False),
}
"""What a cell of one label's column says."""


class LabelsColumn(Column):
    """A list of labels; one for each box where the task has boxes."""

    arrow: ClassVar[pa.DataType] = pa.list_(pa.string())
    target: ClassVar[bool] = True
    classes: ClassVar[bool] = True
    counted: ClassVar[bool] = True
    joins: ClassVar[bool] = True

    def read_cell(self, cell: object, folder: str) -> list[str]:
        """Return labels. A CSV cell holds a list (`["a", "b"]`, `['a', 'b']`) or bars (`a|b`); empty means none."""
        if isinstance(cell, str):
            cell = _split(cell)
        if not isinstance(cell, list | tuple):
            raise BadCell.unfit(cell, "a list of labels")
        return [_LABEL.read_cell(label, folder) for label in cell]

    def join(self, cells: Mapping[str, object], folder: str) -> list[str]:
        """Return the names of the columns that hold 1 or true; 0, false and an empty cell are no label."""
        return [name.strip() for name, cell in cells.items() if _is_marked(name, cell)]

    def labels(self, value: Any) -> Iterable[str]:
        """Return the labels."""
        found: list[str] = value
        return found

    def doubts(self, labels: Iterable[str]) -> str | None:
        """Return a warning about labels joined by commas, which are one label, and about two that are probably one."""
        known = set(labels)
        parts = {label: [part.strip() for part in _JOINED.split(label)] for label in self.in_order(known)}
        shared = Counter(part for several in parts.values() for part in set(several))
        for label, several in parts.items():
            if len(several) > 1 and (other := next((part for part in several if part and shared[part] > 1), None)):
                joined = "|".join(several)
                beside = f"the label {other!r}" if other in known else f"others with {other!r}"
                return (
                    f"{label!r} is one label, beside {beside}: if these are several, write {joined!r}, or a JSON list"
                )
        return look_alikes(parts)

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise lists of a few labels, each of which occurs again."""
        if sample.lists is None and not any(mark in text for text in sample.texts or () for mark in ("|", "[")):
            return None
        counts, most = self._counted(sample), 0
        for label, count in counts.items():
            most = max(most, count)
            if len(label) > _LONGEST:
                return None
        if not counts or len(counts) * 2 > sum(counts.values()):
            return None
        return Likeness(0.9, f"lists of {len(counts):,} labels, the most frequent of them in {most:,} cells seen")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return how unequal the labels are, in the cells that were seen."""
        counts = self._counted(sample)
        return ("balance", f"{balance_text(counts, 'label', 'labels')}, in a sample") if counts else None

    def _counted(self, sample: CellSample) -> Counter[str]:
        """Return how often each label occurs; empty where a cell is no list of labels."""
        try:
            return Counter(label for cell in sample.cells for label in self.read_cell(cell, sample.folder))
        except BadCell:
            return Counter()

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
    """Return the labels in a CSV cell: a list as JSON, Python or numpy write it, or labels with bars between them."""
    text = text.strip()
    listed = text.startswith("[")
    if listed:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass  # Python writes lists with single quotes
    if text[:1] in _BRACKETS and _LITERAL.fullmatch(text):
        return [ast.literal_eval(item) for item in _ITEM.findall(text)]
    if listed:
        raise BadCell(f'is {quoted(text)}, which is not a list: write ["a", "b"], or a|b')
    return [part for part in text.split("|") if part.strip()]


def _is_marked(name: str, cell: object) -> bool:
    """Return whether a cell of one label's column says that the row has the label. BadCell where it says neither."""
    if absent(cell):
        return False
    word = label_text(cell).lower() if isinstance(cell, str | int | float) else None
    if word not in _MARKS:
        raise BadCell(f"{name}: is {quoted(cell)}; the column of one label holds 1 or 0, or true or false")
    return _MARKS[word]
