"""How far might a metric be off, the rows being a sample? Bootstrap intervals, for whatever a task measures."""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Progress, Record, Resampled

CONFIDENCE = 0.95
LEAST = 100
"""Resamples below which no interval is told: its ends would rest on two or three of them."""
MOST_UNDEFINED = 0.05
"""Share of resamples in which a metric may have no value (no row of a class was drawn)."""

Metrics = Callable[[Sequence[Record]], Mapping[str, float]]


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals (Efron and Tibshirani, 1993, chapter 13) of every metric."""

    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    resamples: int = 0
    note: str = ""
    """Why there are none, or fewer than were asked for."""


def bootstrap(
    metrics: Metrics,
    records: Sequence[Record],
    *,
    resamples: int = 1000,
    budget_s: float = 20.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Intervals:
    """95 % intervals of what `metrics` makes of `records`, from resampled rows.

    As many resamples as `budget_s` allows, up to `resamples`. Percentile rather than BCa: the acceleration of BCa
    takes the metric once more for every row left out, which mean average precision cannot afford.
    """

    def draw(chosen: NDArray[np.int64]) -> Mapping[str, float]:
        return metrics([records[index] for index in chosen])

    return _percentiles(draw, len(records), resamples, budget_s, seed, progress)


def paired(
    metrics: tuple[Metrics, Metrics],
    records: tuple[Sequence[Record], Sequence[Record]],
    *,
    resamples: int = 1000,
    budget_s: float = 20.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Intervals:
    """95 % intervals of the first model's metrics less the second's, both on the same resampled rows."""

    def draw(chosen: NDArray[np.int64]) -> Mapping[str, float]:
        one, other = (
            measured([own[index] for index in chosen]) for measured, own in zip(metrics, records, strict=True)
        )
        return {name: one[name] - other[name] for name in one if name in other}

    return _percentiles(draw, len(records[0]), resamples, budget_s, seed, progress)


def _percentiles(
    draw: Callable[[NDArray[np.int64]], Mapping[str, float]],
    rows: int,
    resamples: int,
    budget_s: float,
    seed: int,
    progress: Progress | None,
) -> Intervals:
    if rows < 2 or resamples < 1:
        return Intervals(note="An interval needs at least two rows" if rows < 2 else "None were asked for")
    random, began, drawn = np.random.default_rng(seed), time.monotonic(), 0
    found: dict[str, list[float]] = defaultdict(list)
    while drawn < resamples and time.monotonic() - began < budget_s:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class that was not drawn is no news, a thousand times
            for name, value in draw(random.integers(0, rows, rows)).items():
                if math.isfinite(value):
                    found[name].append(value)
        drawn += 1
        if progress:
            progress(Resampled(drawn, resamples))
    if drawn < min(LEAST, resamples):
        told = f"Only {drawn} resamples could be drawn in {budget_s:.0f} s, too few for intervals: allow more seconds"
        return Intervals(resamples=drawn, note=told)
    note = f"Of the {resamples:,} asked for, {drawn:,} could be drawn in {budget_s:.0f} s" if drawn < resamples else ""
    return Intervals({name: _bounds(values) for name, values in found.items() if _enough(values, drawn)}, drawn, note)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _enough(values: Sequence[float], drawn: int) -> bool:
    return len(values) >= (1 - MOST_UNDEFINED) * drawn
