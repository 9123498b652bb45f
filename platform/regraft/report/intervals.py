"""Bootstrap confidence intervals of any metrics that a task computes from records of rows."""

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
MIN_RESAMPLES = 100
"""With fewer resamples there is no interval: its ends would rest on two or three of them."""
MAX_UNDEFINED = 0.05
"""Largest share of resamples in which a metric may have no value (no row of a class was drawn)."""

Metrics = Callable[[Sequence[Record]], Mapping[str, float]]
_MetricsOfSample = Callable[[NDArray[np.int64]], Mapping[str, float]]
"""The metrics of the rows with these indices; an index may occur several times."""


@dataclass(frozen=True)
class Bootstrap:
    """Size of a bootstrap: up to `resamples` resamples, as many as `budget_s` seconds allow."""

    resamples: int = 1000
    budget_s: float = 20.0
    seed: int = 0


DEFAULT = Bootstrap()


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals (Efron and Tibshirani, 1993, chapter 13) of every metric."""

    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    resamples: int = 0
    note: str = ""
    """The reason for no intervals, or for fewer resamples than requested."""


def bootstrap(
    metrics: Metrics,
    records: Sequence[Record],
    options: Bootstrap = DEFAULT,
    *,
    progress: Progress | None = None,
) -> Intervals:
    """Compute 95 % intervals of `metrics` by resampling `records`.

    Percentile rather than BCa: the acceleration of BCa evaluates the metric once for every row left out, which is too
    expensive for mean average precision.
    """

    def of_sample(chosen: NDArray[np.int64]) -> Mapping[str, float]:
        return metrics([records[index] for index in chosen])

    return _percentiles(of_sample, len(records), options, progress)


def paired(
    metrics: tuple[Metrics, Metrics],
    records: tuple[Sequence[Record], Sequence[Record]],
    options: Bootstrap = DEFAULT,
    *,
    progress: Progress | None = None,
) -> Intervals:
    """Compute 95 % intervals of the first model's metrics minus the second's, both on the same resampled rows."""

    def of_sample(chosen: NDArray[np.int64]) -> Mapping[str, float]:
        first, second = (
            metrics_of([of_model[index] for index in chosen])
            for metrics_of, of_model in zip(metrics, records, strict=True)
        )
        return {name: first[name] - second[name] for name in first if name in second}

    return _percentiles(of_sample, len(records[0]), options, progress)


def _percentiles(of_sample: _MetricsOfSample, rows: int, options: Bootstrap, progress: Progress | None) -> Intervals:
    if rows < 2 or options.resamples < 1:
        return Intervals(note="An interval needs at least two rows" if rows < 2 else "None were requested")
    values, drawn = _resample(of_sample, rows, options, progress)
    seconds = f"{options.budget_s:.0f} s"
    if drawn < min(MIN_RESAMPLES, options.resamples):
        note = f"Only {drawn} resamples could be drawn in {seconds}, too few for intervals: allow more seconds"
        return Intervals(resamples=drawn, note=note)
    fewer = f"{drawn:,} of the {options.resamples:,} requested resamples could be drawn in {seconds}"
    bounds = {name: _bounds(found) for name, found in values.items() if _enough(found, drawn)}
    return Intervals(bounds, drawn, fewer if drawn < options.resamples else "")


def _resample(
    of_sample: _MetricsOfSample, rows: int, options: Bootstrap, progress: Progress | None
) -> tuple[dict[str, list[float]], int]:
    """Return the finite values of each metric over the resamples, and the number of resamples."""
    random, began, drawn = np.random.default_rng(options.seed), time.monotonic(), 0
    values: dict[str, list[float]] = defaultdict(list)
    while drawn < options.resamples and time.monotonic() - began < options.budget_s:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class without rows in a resample would warn up to a thousand times
            for name, value in of_sample(random.integers(0, rows, rows)).items():
                if math.isfinite(value):
                    values[name].append(value)
        drawn += 1
        if progress:
            progress(Resampled(drawn, options.resamples))
    return values, drawn


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _enough(values: Sequence[float], drawn: int) -> bool:
    return len(values) >= (1 - MAX_UNDEFINED) * drawn
