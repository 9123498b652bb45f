"""Labels whose rows all fall to the held-out side of a share: one row of each is moved to the training side.

The split is by a hash of each row, so no seed helps a label of few rows. Of its rows, the one whose hash is nearest to
the training side moves; all other rows stay where their hash puts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from regraft.contracts import Column, ordered_labels
from regraft.data.split_side import SplitRow, SplitSide, row_labels

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A held-out row that could move: its hash as a number in [0, 1), and its index on its side."""

    hash: float
    index: int
    row: SplitRow
    side: str = "eval"


class RareLabels:
    """The held-out row of each label that is nearest to the training side."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._labelled = {name: column for name, column in columns.items() if column.classes}
        self._nearest: dict[str, Candidate] = {}

    def consider(self, candidate: Candidate) -> None:
        """Keep a held-out row for each of its labels, if it is nearer than the one that is kept."""
        for label in row_labels(candidate.row.values, self._labelled):
            known = self._nearest.get(label)
            if known is None or candidate.hash > known.hash:
                self._nearest[label] = candidate

    def move(self, train: SplitSide) -> tuple[dict[str, frozenset[int]], str]:
        """Add rows to the training side until no label lacks one.

        Returns the indices that the rows had, by their side, and a sentence about them; both empty where nothing moved.
        """
        moved: dict[str, set[int]] = {}
        labels: dict[str, list[str]] = {}
        for label in ordered_labels(self._nearest):
            candidate = self._nearest[label]
            of_side = moved.setdefault(candidate.side, set())
            if label not in train.labels and candidate.index not in of_side:
                labels.setdefault(candidate.side, []).append(label)
                of_side.add(candidate.index)
                train.add(candidate.row)
        sentence = "; ".join(_sentence(side, found) for side, found in labels.items())
        return {side: frozenset(indices) for side, indices in moved.items() if indices}, sentence


def _sentence(side: str, labels: list[str]) -> str:
    shown = ", ".join(map(repr, labels[:_SHOWN])) + (f" and {len(labels) - _SHOWN} more" if labels[_SHOWN:] else "")
    one = len(labels) == 1
    held_out = "evaluation side" if side == "eval" else f"{side} side, or on both held-out sides"
    return (
        f"data.{side} as a share put all rows of the {'label' if one else 'labels'} {shown} on the {held_out}: one "
        f"row of {'it' if one else 'each'} is trained on instead"
    )
