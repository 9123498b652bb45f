"""The data curve: the score at nested shares of the labels, by heads in closed form on kept features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.contracts import Progress, RowsEvaluated
from regraft.errors import RequestError
from regraft.selection.folds import folds, others
from regraft.selection.ridge import fit_ridge
from regraft.selection.row_scores import scores_of_rows
from regraft.selection.score import FeatureTarget, Floats, Indices, TargetKind

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
ORDERS = 10
"""Random orders of the rows. In each of them, the rows of a share are the first ones, so shares are nested."""
FEWEST_ROWS = 4
"""Fewest rows that a share fits a head on; smaller shares are left out."""


@dataclass(frozen=True, eq=False)
class MeasuredCurve:
    """Scores of heads at nested shares of the labels, for several orders of the rows."""

    shares: Floats
    """(shares,), ascending."""
    rows: Floats
    """Rows that fitted a head, (shares,): the mean over orders."""
    scores: Floats
    """(orders, shares)."""

    @property
    def values(self) -> Floats:
        """The mean score at each share."""
        return np.asarray(self.scores.mean(0), dtype=np.float64)

    @property
    def spreads(self) -> Floats:
        """The deviation between orders at each share; 0 for one order."""
        orders = len(self.scores)
        return np.asarray(self.scores.std(0, ddof=1) if orders > 1 else np.zeros(len(self.shares)), dtype=np.float64)

    def up_to(self, share: float) -> MeasuredCurve:
        """Return the part of the curve that does not exceed a share."""
        kept = self.shares <= share + 1e-9
        return MeasuredCurve(self.shares[kept], self.rows[kept], self.scores[:, kept])


def measure_curve(
    features: Floats,
    target: FeatureTarget,
    draw: np.random.Generator,
    *,
    judges: Indices | None = None,
    progress: Progress | None = None,
) -> MeasuredCurve:
    """Return the scores of ridge heads on nested shares of the rows.

    `judges` are rows that judge every head and fit none. Without them each order leaves out a fifth of the rows, so
    that the whole is four fifths. Groups enter a share whole. Two bases with equal generators have the same shares.
    Raises RequestError for too few rows.
    """
    sides = _sides(target, judges, draw)
    columns = target.columns()
    counts = np.array([round(share * min(len(fitting) for fitting, _ in sides)) for share in SHARES])
    used = np.flatnonzero(counts >= FEWEST_ROWS).tolist()
    if len(used) < 2:
        raise RequestError(
            f"{len(target)} labelled rows are too few for a data curve, two shares of which must hold {FEWEST_ROWS} "
            "rows or more: leave out --curve, or add rows"
        )
    scores, rows = np.empty((len(sides), len(used))), np.empty((len(sides), len(used)))
    for at, (fitting, judging) in enumerate(sides):
        order = _order(target.take(fitting), draw)
        for place, number in enumerate(used):
            chosen = fitting[_prefix(order, target.take(fitting), SHARES[number])]
            if at and judges is not None and len(chosen) == len(fitting):  # all rows, whatever their order
                scores[at, place], rows[at, place] = scores[0, place], rows[0, place]
                continue
            predicted = fit_ridge(features[chosen], columns[chosen]).predict(features[judging])
            scores[at, place] = scores_of_rows(predicted, columns[judging], target.kind).mean()
            rows[at, place] = len(chosen)
        if progress:
            judged = [len(judging) for _, judging in sides]
            progress(RowsEvaluated(sum(judged[: at + 1]), sum(judged), "heads of the data curve"))
    return MeasuredCurve(np.asarray(SHARES, dtype=np.float64)[used], rows.mean(0), scores)


def rows_to_reach(curve: MeasuredCurve, value: float) -> float | None:
    """Return how many rows reach a value by the measured curve, between points by the logarithm of rows.

    None if the curve never reaches it. The smallest share's rows if that reaches it: fewer may do.
    """
    best = np.maximum.accumulate(curve.values)
    reached = np.flatnonzero(best >= value)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(curve.rows[0])
    part = (value - best[at - 1]) / (best[at] - best[at - 1])
    low, high = np.log(curve.rows[at - 1 : at + 1])
    return float(np.exp(low + part * (high - low)))


def _sides(target: FeatureTarget, judges: Indices | None, draw: np.random.Generator) -> list[tuple[Indices, Indices]]:
    """Return for each order the rows that fit and those that judge."""
    if judges is not None:
        return [(others(judges, len(target)), judges)] * ORDERS
    found: list[tuple[Indices, Indices]] = []
    while len(found) < ORDERS:
        found += [(others(fold, len(target)), fold) for fold in folds(target, 5, draw)]
    return found[:ORDERS]


def _order(target: FeatureTarget, draw: np.random.Generator) -> Indices:
    """Return the rows in a random order in which every prefix has the classes' shares, or whole groups."""
    order = draw.permutation(len(target))
    if target.groups is not None:
        rank = draw.permutation(int(target.groups.max()) + 1)
        return np.asarray(order[np.argsort(rank[target.groups[order]], kind="stable")])
    if target.kind is not TargetKind.CLASSES:
        return np.asarray(order)
    place = np.empty(len(order))
    for label in np.unique(target.values):
        rows = order[target.values[order] == label]
        place[rows] = (np.arange(len(rows)) + draw.random()) / len(rows)
    return np.argsort(place, kind="stable")


def _prefix(order: Indices, target: FeatureTarget, share: float) -> Indices:
    """Return the first rows of an order, and the rest of the last one's group."""
    count = round(share * len(order))
    if target.groups is not None:
        group = target.groups[order[count - 1]]
        count = int(np.flatnonzero(target.groups[order] == group)[-1]) + 1
    return order[:count]
