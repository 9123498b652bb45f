"""Numbers as readable text, and views of tables and matrices with everything that their templates draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regraft.contracts.findings import Matrix, Table

MANY = 10
"""Matrices with more classes are drawn narrow, with a list of their largest confusions."""
_OFTEN = 10


@dataclass(frozen=True)
class TableView:
    """A table, and for each column whether it holds numbers and whether these are shares, which get a bar."""

    table: Table
    numeric: tuple[bool, ...]
    shares: tuple[bool, ...]


@dataclass(frozen=True)
class MatrixCell:
    """A count, the strength of its colour in percent, and its tooltip."""

    count: int
    depth: float
    hit: bool
    tooltip: str


@dataclass(frozen=True)
class MatrixRow:
    """The row of one true class."""

    name: str
    cells: tuple[MatrixCell, ...]
    total: int


@dataclass(frozen=True)
class Confusion:
    """A true class and the class that was predicted instead."""

    truth: str
    answer: str
    count: int
    share: str


@dataclass(frozen=True)
class MatrixView:
    """A confusion matrix with everything that its template draws."""

    matrix: Matrix
    rows: tuple[MatrixRow, ...]
    many: bool
    often: tuple[Confusion, ...]


def table_view(table: Table) -> TableView:
    """Classify the columns of a table."""
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
    return TableView(table, numeric, shares)


def matrix_view(matrix: Matrix) -> MatrixView:
    """Colour a matrix by the shares within each row."""
    rows = []
    for truth, counts in zip(matrix.truths, matrix.counts, strict=True):
        total = sum(counts)
        cells = tuple(
            MatrixCell(
                count,
                _depth(count, total, truth == answer),
                truth == answer,
                f"true {truth}, predicted {answer}: {count:,}{f', {count / total:.1%} of {total:,}' if total else ''}",
            )
            for answer, count in zip(matrix.answers, counts, strict=True)
        )
        rows.append(MatrixRow(truth, cells, total))
    many = len(matrix.answers) > MANY
    return MatrixView(matrix, tuple(rows), many, _often(matrix) if many else ())


def _depth(count: int, total: int, hit: bool) -> float:
    """Return the share of the true class in percent; for mistakes its square root, which shows rare ones too."""
    share = count / total if total else 0.0
    return round(100 * (share if hit else math.sqrt(share)), 1)


def _often(matrix: Matrix) -> tuple[Confusion, ...]:
    pairs = [
        (count, sum(counts), truth, answer)
        for truth, counts in zip(matrix.truths, matrix.counts, strict=True)
        for answer, count in zip(matrix.answers, counts, strict=True)
        if truth != answer and count
    ]
    worst = sorted(pairs, key=lambda pair: (-pair[0], pair[2], pair[3]))[:_OFTEN]
    return tuple(Confusion(truth, answer, count, f"{100 * count / total:.0f}") for count, total, truth, answer in worst)


def format_number(value: Any) -> str:
    """Return a metric as text: three decimals, or three digits if it is small or large. Texts stay as they are."""
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
    """Return a score between 0 and 1 with three decimals, any other as by `format_number`."""
    if not 0 <= value <= 1:
        return format_number(float(value))
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Return a difference with its sign, using a typographic minus."""
    if value is None:
        return "–"
    return f"{'+' if value >= 0 else '−'}{format_number(abs(value))}"


def plugin_text(written: Mapping[str, Any]) -> str:
    """Return a task or method as one line: `lora (rank 16, alpha 32)`."""
    shown = {key: value for key, value in written.items() if key != "type" and value not in (None, "")}
    fields = ", ".join(
        f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in shown.items()
    )
    return f"{written['type']}{f' ({fields})' if fields else ''}"
