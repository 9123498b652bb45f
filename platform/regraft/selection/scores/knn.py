"""k nearest neighbours, leave one out: rows of a class lie close together."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from regraft.selection.row_scores import by_row
from regraft.selection.score import FeatureScore, FeatureTarget, Floats, Scored

NEIGHBOURS = 5
BLOCK = 512
"""Rows whose similarities are held at once."""
TIE = 1e-6
"""Weight of similarity in a vote: it orders classes with equally many neighbours and changes no other vote."""


class NearestNeighbours(FeatureScore):
    """How well the five nearest other rows foretell a row, by the cosine of centred features.

    Rows of a row's own group are no neighbours of it. Classes are voted; of classes with equally many neighbours, the
    nearer wins. Numbers and tags are the neighbours' mean.
    """

    name: ClassVar[str] = "knn"

    def _evaluate(self, features: Floats, target: FeatureTarget, draw: np.random.Generator) -> Scored:
        units, everything = _units(features), np.ones(len(target), dtype=bool)
        half = np.zeros(len(target), dtype=bool)
        half[draw.permutation(len(target))[: len(target) // 2]] = True
        whole, fewer = (by_row(_predicted(units, target, pool), target) for pool in (everything, half))
        return Scored.of_rows(whole, fewer)


def _units(features: Floats) -> Floats:
    """Return centred features of length 1; a row at the centre stays 0."""
    centred = features - features.mean(0)
    largest = np.abs(centred).max()
    centred = centred / largest if largest > 0 else centred
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(lengths > 0, lengths, 1), dtype=np.float64)


def _predicted(units: Floats, target: FeatureTarget, pool: NDArray[np.bool_]) -> Floats:
    """Return the mean of each row's nearest neighbours among a pool (rows,), (rows, columns)."""
    columns = target.columns()
    groups = np.arange(len(units)) if target.groups is None else target.groups
    found = np.empty_like(columns)
    for start in range(0, len(units), BLOCK):
        rows = slice(start, start + BLOCK)
        similar = units[rows] @ units.T
        similar[(groups[rows, None] == groups[None]) | ~pool[None]] = -np.inf
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, :NEIGHBOURS]
        near = np.take_along_axis(similar, nearest, 1)
        counted = np.isfinite(near)
        shares = counted / np.maximum(counted.sum(1, keepdims=True), 1)
        found[rows] = np.einsum("rk,rkc->rc", _weights(shares, near, target), columns[nearest])
    return found


def _weights(shares: Floats, near: Floats, target: FeatureTarget) -> Floats:
    """Return what each neighbour counts: the same, and a trace of its similarity where classes are voted."""
    if target.values.ndim > 1:
        return shares
    return np.asarray(shares * (1 + TIE * np.where(np.isfinite(near), near, 0)), dtype=np.float64)
