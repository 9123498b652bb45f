"""`label`: the one class of a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from regraft.contracts.column import BadCell, Column, MadeUp, absent, label_text, quoted
from regraft.contracts.label_names import look_alikes
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import AnswerView, ShownRow, likeliest, predicted_text, short_text
from regraft.units import counted

MADE_UP = ("no", "yes", "perhaps")
_USUAL = frozenset({"label", "labels", "class", "classes", "category", "topic", "intent", "sentiment"})
"""Names that columns of labels usually have."""
_LONGEST = 60
_MOST_NUMBERS = 20
"""Different whole numbers that may still be the names of classes."""
_UNEQUAL = 5
"""How many times as many rows a class has as the rarest one, from where it is said."""
_SEVERAL_LABELS = ("|", "[", "{")
"""What a cell of several labels holds, or begins with."""


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

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise a few short values, each of which occurs again and again."""
        counts = sample.counts
        if not counts or len(counts) > max(2, sample.rows // 2) or max(map(len, counts)) > _LONGEST:
            return None
        if any(mark in label for label in counts for mark in _SEVERAL_LABELS):
            return None
        numbers = sample.numbers
        if numbers and (len(counts) > _MOST_NUMBERS or not all(number.is_integer() for number in numbers)):
            return None
        named = sample.name.strip().lower() in _USUAL
        most = max(counts, key=lambda label: counts[label])
        evidence = f"{len(counts):,} values, the most frequent of them {most!r} ({counts[most] / sample.rows:.0%})"
        return Likeness(0.9 if named or not numbers or len(counts) <= 2 else 0.6, evidence)

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return how unequal the classes are."""
        return None if not sample.counts else ("balance", balance_text(sample.counts, "class", "classes"))

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


def balance_text(counts: Mapping[str, int], noun: str, plural: str) -> str:
    """Return how often the most frequent and the rarest label occur."""
    total = sum(counts.values())
    most, least = (choose(counts, key=lambda label: counts[label]) for choose in (max, min))
    if counts[most] == counts[least]:
        return f"{counted(len(counts), noun, plural)} with {counted(counts[most], 'row')} each"
    shares = f"from {most!r} ({counts[most]:,}, {counts[most] / total:.0%}) to {least!r} ({counts[least]:,})"
    ratio = counts[most] / counts[least]
    much = f": {ratio:.0f} times as many, so look at each class's own score" if ratio >= _UNEQUAL else ""
    return f"{counted(len(counts), noun, plural)}, {shares}{much}"
