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

    def judged(self) -> Scored:
        """Return the mean of its scores of single rows."""
        return _mean_score([self.scores[name] for name in BY_ROW if name in self.scores])


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

    def judged(self) -> Scored:
        """Return the mean of its scores of single rows, each at its best depth."""
        return _mean_score([self.best(name).scores[name] for name in BY_ROW if name in self.depths[0].scores])


@dataclass(frozen=True)
class RankedBase:
    """A base in the ranking, and how far it is behind the first one."""

    base: BaseScores
    behind: DifferenceInterval | None
    """The first base's mean score of rows minus this one's; None for the first."""

    @property
    def tied(self) -> bool:
        """Whether it is not behind the first base beyond noise."""
        return self.behind is None or self.behind.low <= 0


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

    `share` is the share of all training rows that were scored: the intervals are about all of them.
    """
    names = [name for name in RANKED if name in bases[0].depths[0].scores]
    values = np.array([[base.best(name).scores[name].value for name in names] for base in bases])
    ranks = np.mean([rankdata(-column) for column in values.T], axis=0)
    for base, mean in zip(bases, ranks, strict=True):
        base.rank = float(mean)
    ordered = sorted(bases, key=lambda base: (base.rank, base.cost))
    behind = [ahead(ordered[0].judged(), base.judged(), share) for base in ordered[1:]]
    return [RankedBase(base, found) for base, found in zip(ordered, (None, *behind), strict=True)]


def proposed_depth(base: BaseScores) -> DepthScores:
    """Return the deepest place whose features are within noise of the best: what lies before it may stay frozen."""
    best = max(base.depths, key=lambda one: one.judged().value)
    others = (one for one in reversed(base.depths) if one is not best and one.depth >= best.depth)
    return next((one for one in others if ahead(best.judged(), one.judged()).low <= 0), best)


def ahead(first: Scored, other: Scored, share: float = 1.0) -> DifferenceInterval:
    """Return by how much one score of rows is ahead of another on the same rows, with its interval."""
    assert first.by_row is not None and other.by_row is not None
    learned = None
    if first.by_half is not None and other.by_half is not None:
        learned = HalfLearned(first.by_half, other.by_half, share)
    return paired_difference(first.by_row, other.by_row, np.random.default_rng(RANDOM), learned=learned)


def _mean_score(found: Sequence[Scored]) -> Scored:
    """Return the mean of scores of the same rows, and that of what half as many rows teach where all have it."""
    rows = [one.by_row for one in found if one.by_row is not None]
    halves = [one.by_half for one in found if one.by_half is not None]
    half = np.mean(halves, axis=0) if len(halves) == len(rows) else None
    return Scored.of_rows(np.mean(rows, axis=0), half)
