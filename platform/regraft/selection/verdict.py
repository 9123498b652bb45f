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
SHARED = 1.2
"""How much wider intervals of learned scores are than rows alone make them: rows share heads and neighbours."""
DEVIATIONS = 2.0
"""How many times the expected change by more rows counts. Both were fixed on reviews and digits."""
AS_COSTLY = 1.2
"""Ratio of costs below which two bases cost the same in words."""
COUNTS = ("", "", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, eq=False)
class Contender:
    """A base, what a row costs with it in any unit, and its score of each row: higher is better."""

    name: str
    cost: float
    by_row: Floats
    by_half: Floats | None = None
    """Its score of each row by half as many other rows."""


@dataclass(frozen=True, eq=False)
class HalfLearned:
    """The scores of both sides by half as many other rows, and the share of all rows that the sample is.

    A score on more rows differs from that on a sample: heads and neighbours learn from more of them. The difference of
    two bases changes with it. The step from half the sample to the sample says by how much.
    """

    first: Floats
    second: Floats
    share: float = 1.0

    def change(self, first: Floats, second: Floats) -> float:
        """Return how much the difference may change from the sample to all rows, if that falls with their root.

        What chance in single rows makes of the step from half the sample to the sample is taken off its square.
        """
        steps = (first - second) - (self.first - self.second)
        step = max(0.0, float(steps.mean()) ** 2 - float(steps.var()) / len(steps)) ** 0.5
        return float(step * (1 - min(1.0, self.share) ** 0.5) / (2**0.5 - 1))


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
    contenders: Sequence[Contender],
    draw: np.random.Generator,
    *,
    groups: NDArray[np.generic] | None = None,
    share: float = 1.0,
) -> BaseVerdict:
    """Return the verdict by a paired bootstrap over rows, or over groups of rows where they belong together.

    `share` is the share of all rows that were scored: the verdict is about all of them. Raises RequestError without
    contenders, for two of one name, and for scores of different rows.
    """
    _check(contenders, groups)
    best = max(contenders, key=lambda one: (float(one.by_row.mean()), -one.cost))
    numbers = None if groups is None else np.unique(groups, return_inverse=True)[1]
    seed = int(draw.integers(2**31))
    found = []
    for one in contenders:
        shared = np.random.default_rng(seed)  # all are judged on the same resamples
        learned = None
        if one.by_half is not None and best.by_half is not None:
            learned = HalfLearned(one.by_half, best.by_half, share)
        interval = paired_difference(one.by_row, best.by_row, shared, groups=numbers, learned=learned)
        tied = one is best or interval.high >= 0
        found.append(BaseStanding(one.name, float(one.by_row.mean()), one.cost, interval, tied))
    found.sort(key=lambda one: (not one.tied, one.cost if one.tied else 0, -one.value, one.name))
    return BaseVerdict(tuple(found), best.name, _words(found, best.name))


def paired_difference(
    first: Floats,
    second: Floats,
    draw: np.random.Generator,
    *,
    groups: Indices | None = None,
    learned: HalfLearned | None = None,
) -> DifferenceInterval:
    """Return the mean of `first` less that of `second` on the same rows, with its interval by a bootstrap.

    `groups` are numbers from 0: rows of a group are drawn together. With `learned`, the interval is that of the
    difference of the same scores on all rows: wider by what rows have in common and by what more rows may change.
    """
    differences = first - second
    groups = np.arange(len(differences)) if groups is None else groups
    sums, sizes = np.bincount(groups, differences), np.bincount(groups)
    drawn = draw.integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    middle = float(differences.mean())
    if learned is not None:
        change = DEVIATIONS * learned.change(first, second)
        low, high = (middle + sign * np.hypot(SHARED * (end - middle), change) for sign, end in ((-1, low), (1, high)))
    return DifferenceInterval(middle, float(low), float(high))


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
