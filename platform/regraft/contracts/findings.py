"""What an evaluation found, besides metrics, as plain data that a page can show and a program can read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of numbers and words under named columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    note: str = ""
    """What a reader must know to read it right, in a sentence."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Counts of what was true (down) against what was said (across)."""

    title: str
    truths: tuple[str, ...]
    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """(truths, answers)."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y) in the order of x, such as a reliability diagram or an ROC curve."""

    title: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]
    weights: tuple[float, ...] = ()
    """How many rows stand behind each point, where that differs."""
    ideal: tuple[tuple[float, float], ...] = ()
    """The line that a perfect model would draw; nothing where there is none."""
    note: str = ""
    joined: bool = True
    """Whether a line joins the points; a cloud of rows has none."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a task has to show of its records, in reading order."""

    tables: tuple[Table, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    curves: tuple[Curve, ...] = ()
