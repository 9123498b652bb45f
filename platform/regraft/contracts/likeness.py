"""Likeness: how much a column of a file looks like a kind of column, and what shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CellSample:
    """The cells of one column of a file, as a look at the file has them."""

    name: str
    cells: tuple[object, ...]
    """Cells that are not empty, from all over the file, in its order."""
    rows: int
    """Cells of the column that are not empty."""
    distinct: int
    """Number of different cells among them."""
    counts: Mapping[str, int] | None
    """How often each value occurs; None for lists and objects, and where very many values differ."""
    folder: str
    """Where relative paths of files begin."""

    @property
    def texts(self) -> tuple[str, ...] | None:
        """The cells, where each is a text; else None."""
        texts = tuple(cell for cell in self.cells if isinstance(cell, str))
        return texts if texts and len(texts) == len(self.cells) else None

    @property
    def lists(self) -> tuple[list[object], ...] | None:
        """The cells, where each is a list; else None."""
        lists = tuple(list(cell) for cell in self.cells if isinstance(cell, list | tuple))
        return lists if lists and len(lists) == len(self.cells) else None

    @property
    def numbers(self) -> tuple[float, ...] | None:
        """The cells as finite numbers, where each is one; else None."""
        found: list[float] = []
        for cell in self.cells:
            number = _number(cell)
            if number is None:
                return None
            found.append(number)
        return tuple(found) or None


@dataclass(frozen=True, slots=True)
class Likeness:
    """That a column of a file looks like a kind."""

    strength: float
    """From 0 to 1; two kinds within a tenth of each other fit equally."""
    evidence: str
    """What the cells show, as a phrase."""


def _number(cell: object) -> float | None:
    """Return a cell as a finite number; None for anything else."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
