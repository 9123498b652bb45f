"""The choice among bases: the mean of their ranks by three scores, ties by paired bootstrap, and a depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from regraft.selection.members import scores as all_scores
from regraft.selection.score import FeatureTarget, Floats, Scored
from regraft.selection.verdict import DifferenceInterval, HalfLearned, paired_difference

RANKED = ("knn", "linear_probe", "logme")
"""Scores whose mean rank decides. The others are shown."""
BY_ROW = ("knn", "linear_probe")
"""Scores of single rows, whose mean is compared in pairs."""
RANDOM = 0
"""Seed of folds and resamples, so that bases are compared on the same ones."""

Scores = Mapping[str, Scored]


@dataclass(frozen=True, eq=False)
class DepthScores:
    """The scores of a base's features at one depth."""

    name: str
    depth: int
    scores: Scores

    def by_row(self) -> Floats:
        """Return the mean of its scores of single rows, (rows,)."""
        return _mean_of_rows([self.scores[name] for name in BY_ROW if name in self.scores])


@dataclass(eq=False)
class BaseScores:
    """A base with the scores of its features, and what it costs."""

    reference: str
    depths: list[DepthScores]
    operations: float
    parameters: int
    rank: float = 0.0
    """Mean of its ranks by the scores that decide; 1 is best by all of them."""
    others: dict[str, float] = field(default_factory=dict)
    """Scores at the best depth that decide nothing."""

    def best(self, score: str) -> DepthScores:
        """Return the depth at which a score is highest."""
        return max(self.depths, key=lambda one: one.scores[score].value)

    @property
    def cost(self) -> float:
        """What it costs to use, in operations a row; parameters where operations cannot be counted."""
        return self.operations or float(self.parameters)

    def by_row(self) -> Floats:
        """Return the mean of its scores of single rows, each at its best depth, (rows,)."""
        return _mean_of_rows([self.best(name).scores[name] for name in BY_ROW if name in self.depths[0].scores])

    def by_half(self) -> Floats | None:
        """Return the same by half as many other rows; None where a score has none."""
        found = [self.best(name).scores[name].by_half for name in BY_ROW if name in self.depths[0].scores]
        rows = [one for one in found if one is not None]
        return np.asarray(np.mean(rows, axis=0), dtype=np.float64) if found and len(rows) == len(found) else None


@dataclass(frozen=True)
class RankedBase:
    """A base in the ranking, and how far it is behind the first one."""

    base: BaseScores
    behind: DifferenceInterval | None
    """The first base's mean score of rows minus this one's; None for the first."""

    @property
    def tied(self) -> bool:
        """Whether nothing tells it from the first base."""
        return self.behind is None or self.behind.low <= 0 <= self.behind.high


def score_depth(features: Floats, target: FeatureTarget, names: Sequence[str]) -> dict[str, Scored]:
    """Return the scores with these names that have a meaning for the target."""
    known = all_scores()
    chosen = {name: known[name] for name in names if name in known and known[name].accepts(target)}
    return {name: one.evaluate(features, target, np.random.default_rng(RANDOM)) for name, one in chosen.items()}


def shown_scores(features: Floats, target: FeatureTarget) -> dict[str, float]:
    """Return the scores that decide nothing, at one depth."""
    names = [name for name in all_scores() if name not in RANKED]
    return {name: one.value for name, one in score_depth(features, target, names).items()}


def rank(bases: Sequence[BaseScores], share: float = 1.0) -> list[RankedBase]:
    """Return the bases by their mean rank, each beside the first; of equal ones the cheaper comes first.

    `share` is the share of all training rows that were scored: ties are about all of them.
    """
    names = [name for name in RANKED if name in bases[0].depths[0].scores]
    values = np.array([[base.best(name).scores[name].value for name in names] for base in bases])
    ranks = np.mean([rankdata(-column) for column in values.T], axis=0)
    for base, mean in zip(bases, ranks, strict=True):
        base.rank = float(mean)
    ordered = sorted(bases, key=lambda base: (base.rank, base.cost))
    behind = [_behind(ordered[0], base, share) for base in ordered[1:]]
    return [RankedBase(base, found) for base, found in zip(ordered, (None, *behind), strict=True)]


def _behind(first: BaseScores, other: BaseScores, share: float) -> DifferenceInterval:
    """Return by how much a base is behind the first one."""
    halves = first.by_half(), other.by_half()
    learned = None if halves[0] is None or halves[1] is None else HalfLearned(halves[0], halves[1], share)
    return paired_difference(first.by_row(), other.by_row(), np.random.default_rng(RANDOM), learned=learned)


def proposed_depth(base: BaseScores) -> DepthScores:
    """Return the deepest place whose features are within noise of the best: what lies before it may stay frozen."""
    best = max(base.depths, key=lambda one: one.by_row().mean())
    for one in reversed(base.depths):
        if one is best:
            break
        found = paired_difference(best.by_row(), one.by_row(), np.random.default_rng(RANDOM))
        if found.low <= 0 <= found.high:
            return one
    return best


def _mean_of_rows(found: Sequence[Scored]) -> Floats:
    rows = [one.by_row for one in found if one.by_row is not None]
    return np.asarray(np.mean(rows, axis=0), dtype=np.float64)
