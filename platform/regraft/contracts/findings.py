"""Findings: what an evaluation shows besides metrics, as plain data for pages and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of numbers and texts under named columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    note: str = ""
    """What a reader needs to know to read it, in a sentence."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Counts of true classes (rows) against predicted ones (columns)."""

    title: str
    truths: tuple[str, ...]
    """Names of the rows."""
    answers: tuple[str, ...]
    """Names of the columns."""
    counts: tuple[tuple[int, ...], ...]
    """(truths, answers)."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points (x, y) in the order of x, such as a reliability diagram or an ROC curve."""

    title: str
    x: str
    """Title of the axis."""
    y: str
    """Title of the axis."""
    points: tuple[tuple[float, float], ...]
    weights: tuple[float, ...] = ()
    """Number of rows of each point; empty where all have as many."""
    ideal: tuple[tuple[float, float], ...] = ()
    """The curve of a perfect model; empty where there is none."""
    note: str = ""
    joined: bool = True
    """Whether a line joins the points; False for a scatter of rows."""


@dataclass(frozen=True, slots=True)
class Findings:
    """A task's tables and charts of an evaluation's records, in reading order."""

    tables: tuple[Table, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherForm:
    """Metrics of the evaluated rows asked in another form, such as plain texts in place of words."""

    name: str
    """What the rows are asked as, such as `plain text`."""
    metrics: Mapping[str, float]
    note: str
    """The result in a sentence, beside that of the usual form."""
