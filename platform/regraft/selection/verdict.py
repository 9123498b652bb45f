"""The verdict on bases: which is best, which are within noise of it, and which of those is cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.errors import RequestError
from regraft.selection.score import Floats, Indices

CONFIDENCE = 0.9
RESAMPLES = 1000
AS_COSTLY = 1.2
"""Ratio of costs below which two bases cost the same in words."""
COUNTS = ("", "", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, eq=False)
class Contender:
    """A base, what a row costs with it in any unit, and its score of each row: higher is better."""

    name: str
    cost: float
    by_row: Floats


@dataclass(frozen=True)
class DifferenceInterval:
    """A difference of two mean scores on the same rows, and its interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class BaseStanding:
    """A base's mean score, and how it differs from the best one's."""

    name: str
    value: float
    cost: float
    to_best: DifferenceInterval
    """This base less the best one; all 0 for the best one itself."""
    tied: bool
    """Whether the interval holds 0: it is within noise of the best one."""


@dataclass(frozen=True)
class BaseVerdict:
    """The bases in order: those within noise of the best by their cost, then the others by their value."""

    standings: tuple[BaseStanding, ...]
    best: str
    """The base of the highest mean, whatever it costs."""
    words: str

    @property
    def first(self) -> str:
        """The cheapest base that is within noise of the best."""
        return self.standings[0].name


def verdict(
    contenders: Sequence[Contender], draw: np.random.Generator, *, groups: NDArray[np.generic] | None = None
) -> BaseVerdict:
    """Return the verdict by a paired bootstrap over rows, or over groups of rows where they belong together.

    Raises RequestError without contenders, for two of one name, and for scores of different rows.
    """
    _check(contenders, groups)
    best = max(contenders, key=lambda one: (float(one.by_row.mean()), -one.cost))
    numbers = None if groups is None else np.unique(groups, return_inverse=True)[1]
    seed = int(draw.integers(2**31))
    found = []
    for one in contenders:
        shared = np.random.default_rng(seed)  # all are judged on the same resamples
        interval = paired_difference(one.by_row, best.by_row, shared, groups=numbers)
        tied = one is best or interval.high >= 0
        found.append(BaseStanding(one.name, float(one.by_row.mean()), one.cost, interval, tied))
    found.sort(key=lambda one: (not one.tied, one.cost if one.tied else 0, -one.value, one.name))
    return BaseVerdict(tuple(found), best.name, _words(found, best.name))


def paired_difference(
    first: Floats, second: Floats, draw: np.random.Generator, *, groups: Indices | None = None
) -> DifferenceInterval:
    """Return the mean of `first` less that of `second` on the same rows, with its interval by a bootstrap.

    `groups` are numbers from 0: rows of a group are drawn together.
    """
    differences = first - second
    groups = np.arange(len(differences)) if groups is None else groups
    sums, sizes = np.bincount(groups, differences), np.bincount(groups)
    drawn = draw.integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return DifferenceInterval(float(differences.mean()), float(low), float(high))


def _check(contenders: Sequence[Contender], groups: NDArray[np.generic] | None) -> None:
    names = [one.name for one in contenders]
    if not names:
        raise RequestError("a verdict needs at least one base")
    if len(set(names)) < len(names):
        raise RequestError(f"two bases have one name: {', '.join(sorted(names))}")
    rows = {len(one.by_row) for one in contenders} | (set() if groups is None else {len(groups)})
    if len(rows) > 1 or not max(rows):
        raise RequestError(f"bases are compared on the same rows, not on {sorted(rows)}")


def _words(standings: Sequence[BaseStanding], best: str) -> str:
    """Return the verdict as a sentence: `a; b is within noise and four times cheaper`."""
    leader = next(one for one in standings if one.name == best)
    tied = [one for one in standings if one.tied and one is not leader]
    if tied:
        return "; ".join([best, *(f"{one.name} is within noise and {_cheaper(one, leader)}" for one in tied)])
    if len(standings) == 1:
        return best
    other = standings[1]
    lead = other.to_best
    return f"{best}, ahead of {other.name} by {-lead.difference:.3f} ({-lead.high:.3f} to {-lead.low:.3f})"


def _cheaper(one: BaseStanding, leader: BaseStanding) -> str:
    low, high = sorted((one.cost, leader.cost))
    ratio = high / low if low > 0 else float("inf") if high > 0 else 1.0
    if ratio < AS_COSTLY:
        return "costs as much"
    what = "cheaper" if one.cost < leader.cost else "dearer"
    if not np.isfinite(ratio):
        return f"much {what}"
    whole = abs(ratio - round(ratio)) < 0.15 or ratio > 10
    count = f"{ratio:.0f}" if whole else f"{ratio:.1f}"
    return f"{COUNTS[round(ratio)] if whole and round(ratio) < len(COUNTS) else count} times {what}"
