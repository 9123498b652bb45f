"""Rows in folds, so that no row is judged by a head that was fitted on it or on its group."""

from __future__ import annotations

import numpy as np

from regraft.selection.score import FeatureTarget, Indices, TargetKind


def folds(target: FeatureTarget, count: int, draw: np.random.Generator) -> list[Indices]:
    """Return the rows of at most `count` folds: each row is in one, groups stay together, classes are spread evenly.

    Groups go to the smallest fold, the largest group first. There are fewer folds where there are fewer groups or rows.
    """
    if target.groups is not None:
        return _of_groups(target.groups, count, draw)
    order = draw.permutation(len(target))
    if target.kind is TargetKind.CLASSES:
        order = order[np.argsort(target.values[order], kind="stable")]
    count = min(count, len(order))
    return [np.sort(order[start::count]) for start in range(count)]


def others(fold: Indices, rows: int) -> Indices:
    """Return the rows that are not in the fold."""
    left = np.ones(rows, dtype=bool)
    left[fold] = False
    return np.flatnonzero(left)


def _of_groups(groups: Indices, count: int, draw: np.random.Generator) -> list[Indices]:
    sizes = np.bincount(groups)
    order = draw.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    count = min(count, len(order))
    filled, fold_of = np.zeros(count, dtype=np.int64), np.empty(len(sizes), dtype=np.int64)
    for group in order:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return [np.flatnonzero(fold_of[groups] == fold) for fold in range(count)]
