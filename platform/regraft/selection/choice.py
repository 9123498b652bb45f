"""The choice among bases: the mean of their ranks by three scores, ties by paired bootstrap, and a depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import rankdata

from regraft.selection.folds import folds, others
from regraft.selection.members import scores as all_scores
from regraft.selection.paired_interval import DifferenceInterval, HalfLearned, paired_difference
from regraft.selection.score import FeatureTarget, Floats, Indices, Scored

RANKED = ("knn", "linear_probe", "logme")
"""Scores whose mean rank decides. The others are shown."""
BY_ROW = ("knn", "linear_probe")
"""Scores of single rows, whose mean is compared in pairs. They judge no row by others of its group."""
PROBE = "linear_probe"
"""The score that controls are compared by."""
FOLDS = 5
"""Parts of the rows, each judged at the base and depth that the others choose."""
SCORING = 2
"""Edition of the scores and rules: what another one decided is decided again."""
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
    groups: Indices | None = None
    """The group of each row; None where each is its own."""

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
        """Whether it is within noise of the first base."""
        return self.behind is None or self.behind.low <= 0 <= self.behind.high

    @property
    def leads(self) -> bool:
        """Whether its rows are ahead of the first base's beyond noise: it is behind by the mean rank alone."""
        return self.behind is not None and self.behind.high < 0


def deciding(target: FeatureTarget) -> tuple[str, ...]:
    """Return the scores that decide; where rows belong together, those that judge no row by its own group."""
    return RANKED if target.groups is None else BY_ROW


def score_depth(features: Floats, target: FeatureTarget, names: Sequence[str]) -> dict[str, Scored]:
    """Return the scores with these names that have a meaning for the target."""
    known = all_scores()
    chosen = {name: known[name] for name in names if name in known and known[name].accepts(target)}
    return {name: one.evaluate(features, target, np.random.default_rng(RANDOM)) for name, one in chosen.items()}


def shown_scores(features: Floats, target: FeatureTarget) -> dict[str, float]:
    """Return the scores that decide nothing, at one depth."""
    names = [name for name in all_scores() if name not in deciding(target)]
    return {name: one.value for name, one in score_depth(features, target, names).items()}


def rank(bases: Sequence[BaseScores], share: float = 1.0) -> list[RankedBase]:
    """Return the bases by their mean rank, each beside the first; of equal ones the cheaper comes first.

    `share` is the share of all training rows that were scored: the intervals are about all of them.
    """
    for base, mean in zip(bases, _mean_ranks(bases), strict=True):
        base.rank = float(mean)
    ordered = sorted(bases, key=lambda base: (base.rank, base.cost))
    first, groups = ordered[0].judged(), ordered[0].groups
    behind = [ahead(first, base.judged(), share, groups=groups) for base in ordered[1:]]
    return [RankedBase(base, found) for base, found in zip(ordered, (None, *behind), strict=True)]


def _mean_ranks(bases: Sequence[BaseScores], rows: Indices | None = None) -> Floats:
    """Return the mean rank of each base, by scores of single rows on some rows alone where `rows` are given."""
    names = [name for name in RANKED if name in bases[0].depths[0].scores]
    values = [[max(_on(one.scores[name], rows) for one in base.depths) for base in bases] for name in names]
    return np.asarray(np.mean([rankdata(-np.array(column)) for column in values], axis=0), dtype=np.float64)


def _on(found: Scored, rows: Indices | None) -> float:
    return found.value if rows is None or found.by_row is None else float(found.by_row[rows].mean())


def chosen_probe(bases: Sequence[BaseScores], target: FeatureTarget) -> Scored:
    """Return the linear probe of each row at the base and depth that the other rows choose.

    The best of many bases and depths is above its true value on the rows that chose it; here no row chooses for itself.
    """
    name = PROBE if PROBE in bases[0].depths[0].scores else BY_ROW[0]
    rows, half = np.empty(len(target)), np.empty(len(target))
    for fold in folds(target, FOLDS, np.random.default_rng(RANDOM)):
        choosing = others(fold, len(target))
        ranks = _mean_ranks(bases, choosing)
        base = min(zip(ranks, bases, strict=True), key=lambda one: (one[0], one[1].cost))[1]
        found = max((one.scores[name] for one in base.depths), key=lambda one: _on(one, choosing))
        assert found.by_row is not None
        rows[fold], half[fold] = found.by_row[fold], (found.by_row if found.by_half is None else found.by_half)[fold]
    return Scored.of_rows(rows, half)


def proposed_depth(base: BaseScores) -> DepthScores:
    """Return the deepest place whose features are within noise of the best: what lies before it may stay frozen."""
    best = max(base.depths, key=lambda one: one.judged().value)
    deeper = (one for one in reversed(base.depths) if one is not best and one.depth >= best.depth)
    return next((one for one in deeper if ahead(best.judged(), one.judged(), groups=base.groups).low <= 0), best)


def ahead(first: Scored, other: Scored, share: float = 1.0, *, groups: Indices | None = None) -> DifferenceInterval:
    """Return by how much one score of rows is ahead of another on the same rows, with its interval.

    `share` is the share of all rows that were scored. Scores that say nothing of half as many rows, such as a dull
    baseline's, count as unchanged by more of them.
    """
    assert first.by_row is not None and other.by_row is not None
    learned = None
    if first.by_half is not None:
        learned = HalfLearned(first.by_half, other.by_row if other.by_half is None else other.by_half, share)
    draw = np.random.default_rng(RANDOM)
    return paired_difference(first.by_row, other.by_row, draw, groups=groups, learned=learned)


def _mean_score(found: Sequence[Scored]) -> Scored:
    """Return the mean of scores of the same rows, and that of what half as many rows teach where all have it."""
    rows = [one.by_row for one in found if one.by_row is not None]
    halves = [one.by_half for one in found if one.by_half is not None]
    half = np.mean(halves, axis=0) if len(halves) == len(rows) else None
    return Scored.of_rows(np.mean(rows, axis=0), half)
