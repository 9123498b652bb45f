"""Whether a choice held, by labelled target rows that it did not read: the paired difference of two accuracies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

from regraft.errors import RequestError

HELD, WORSE, UNKNOWN = "held", "worse", "cannot tell"
QUANTILE = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Checked:
    """Accuracies of both models on the same rows, and the 95 % interval of their difference."""

    rows: int
    chosen: float
    source_only: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`held` if the chosen model is better, `worse` if it is worse, `cannot tell` where the interval holds 0."""
        if self.low > 0:
            return HELD
        return WORSE if self.high < 0 else UNKNOWN


def check(chosen: Tensor, source_only: Tensor, labels: Tensor) -> Checked:
    """Compare predicted classes (rows,) of two models. Raises RequestError without labelled rows."""
    if not len(labels) or len(chosen) != len(labels) or len(source_only) != len(labels):
        counts = f"{len(labels)} labels, {len(chosen)} and {len(source_only)} answers"
        raise RequestError(f"a check needs labelled rows, each answered by both models: {counts}", where="--check")
    first, second = chosen == labels, source_only == labels
    better, worse, rows = int((first & ~second).sum()), int((~first & second).sum()), len(labels)
    low, high = paired_difference(better, worse, rows)
    return Checked(
        rows, float(first.double().mean()), float(second.double().mean()), (better - worse) / rows, low, high
    )


def paired_difference(better: int, worse: int, rows: int) -> tuple[float, float]:
    """Return the 95 % score interval of a difference of paired shares (Tango, 1998).

    `better` rows are right in the first model alone, `worse` in the second alone.
    """
    estimate = (better - worse) / rows
    low = _bound((better, worse, rows), -1.0, estimate, QUANTILE)
    high = _bound((better, worse, rows), estimate, 1.0, -QUANTILE)
    return low, high


def _bound(counts: tuple[int, int, int], low: float, high: float, wanted: float) -> float:
    """Return where the score statistic, which falls from `low` to `high`, takes the wanted value."""
    for _ in range(60):
        middle = (low + high) / 2
        if _score(counts, middle) > wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(counts: tuple[int, int, int], difference: float) -> float:
    """Return the score statistic of a hypothetical difference."""
    better, worse, rows = counts
    linear = -better - worse + (2 * rows - better + worse) * difference
    constant = -worse * difference * (1 - difference)
    share = (math.sqrt(max(linear**2 - 8 * rows * constant, 0)) - linear) / (4 * rows)
    variance = rows * (2 * share + difference * (1 - difference))
    distance = better - worse - rows * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)
