"""Numbers as a reader wants them, and tables and matrices with what their drawing needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regraft.contracts.findings import Matrix, Table

MANY = 10
"""Classes from which a matrix is drawn narrow, and its largest confusions are listed beside."""
_OFTEN = 10


@dataclass(frozen=True)
class Framed:
    """A table, and of each column whether it holds numbers, and whether these are shares, which get a bar."""

    table: Table
    numeric: tuple[bool, ...]
    shares: tuple[bool, ...]


@dataclass(frozen=True)
class Cell:
    """A count, how deep its colour is (in percent), and what it says when it is pointed at."""

    count: int
    depth: float
    hit: bool
    told: str


@dataclass(frozen=True)
class Line:
    """One true class of a matrix."""

    name: str
    cells: tuple[Cell, ...]
    total: int


@dataclass(frozen=True)
class Confused:
    """A true class and another that was said in its place."""

    truth: str
    answer: str
    count: int
    share: str


@dataclass(frozen=True)
class Grid:
    """A matrix as it is drawn."""

    matrix: Matrix
    lines: tuple[Line, ...]
    many: bool
    often: tuple[Confused, ...]


def framed(table: Table) -> Framed:
    """The table with what is known of its columns."""
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.columns)
    numbers = [[cell for cell in column if cell is not None] for column in columns]
    numeric = tuple(bool(column) and all(isinstance(cell, int | float) for cell in column) for column in numbers)
    shares = tuple(
        numeric[place]
        and len(table.rows) > 1
        and any(isinstance(cell, float) for cell in column)
        and all(0 <= float(cell) <= 1 for cell in column)
        for place, column in enumerate(numbers)
    )
    return Framed(table, numeric, shares)


def grid(matrix: Matrix) -> Grid:
    """The matrix with shares by its rows."""
    lines = []
    for truth, counts in zip(matrix.truths, matrix.counts, strict=True):
        total = sum(counts)
        cells = tuple(
            Cell(
                count,
                _depth(count, total, truth == answer),
                truth == answer,
                f"true {truth}, said {answer}: {count:,}{f', {count / total:.1%} of {total:,}' if total else ''}",
            )
            for answer, count in zip(matrix.answers, counts, strict=True)
        )
        lines.append(Line(truth, cells, total))
    many = len(matrix.answers) > MANY
    return Grid(matrix, tuple(lines), many, _often(matrix) if many else ())


def _depth(count: int, total: int, hit: bool) -> float:
    """By the share of the true class; by its root for mistakes, which are to be seen before they are frequent."""
    share = count / total if total else 0.0
    return round(100 * (share if hit else math.sqrt(share)), 1)


def _often(matrix: Matrix) -> tuple[Confused, ...]:
    pairs = [
        (count, sum(counts), truth, answer)
        for truth, counts in zip(matrix.truths, matrix.counts, strict=True)
        for answer, count in zip(matrix.answers, counts, strict=True)
        if truth != answer and count
    ]
    worst = sorted(pairs, key=lambda pair: (-pair[0], pair[2], pair[3]))[:_OFTEN]
    return tuple(Confused(truth, answer, count, f"{100 * count / total:.0f}") for count, total, truth, answer in worst)


def figure(value: Any) -> str:
    """A metric for a page: three places, or three digits where it is small or large; words as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.3f}"
    if 100 <= abs(value) < 1e9:
        return f"{value:,.0f}" if value.is_integer() or abs(value) >= 1e4 else f"{value:,.1f}"
    return f"{value:.3g}"


def probability(value: float) -> str:
    """A score between 0 and 1 in three places; others as any figure."""
    if not 0 <= value <= 1:
        return figure(float(value))
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference: its sign always told, with a true minus."""
    if value is None:
        return "–"
    return f"{'+' if value >= 0 else '−'}{figure(abs(value))}"


def span(seconds: float) -> str:
    """Seconds for people: `8.4 s`, `3 min 12 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def member(written: Mapping[str, Any]) -> str:
    """A task or method as one line: `lora (rank 16, alpha 32)`."""
    told = {key: value for key, value in written.items() if key != "type" and value not in (None, "")}
    fields = ", ".join(
        f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in told.items()
    )
    return f"{written['type']}{f' ({fields})' if fields else ''}"
