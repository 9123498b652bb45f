"""The difference of two bases' scores on the same rows, with its interval by a bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.selection.score import Floats, Indices

CONFIDENCE = 0.9
RESAMPLES = 1000
SHARED = 1.2
"""How much wider intervals of learned scores are than rows alone make them: rows share heads and neighbours."""
DEVIATIONS = 2.0
"""How many times the expected change by more rows counts. Both were fixed on reviews and digits."""


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
