"""Scores of each row from what was predicted for it."""

from __future__ import annotations

import numpy as np

from regraft.selection.score import FeatureTarget, Floats, TargetKind


def by_row(predicted: Floats, target: FeatureTarget) -> Floats:
    """Return the score of each row, (rows,), for predicted columns (rows, columns) in the order of `columns()`."""
    return scores_of_rows(predicted, target.columns(), target.kind)


def scores_of_rows(predicted: Floats, truth: Floats, kind: TargetKind) -> Floats:
    """Return the score of each row, (rows,), for predicted and true columns (rows, columns).

    Classes: 1 where the largest column is the row's class, else 0. Numbers: 1 - squared error / variance, the mean over
    columns, so that the mean over rows is R2. Tags: the same, with the variances of all tags added up (Brier skill).
    """
    if kind is TargetKind.CLASSES:
        return np.asarray(truth[np.arange(len(truth)), predicted.argmax(1)], dtype=np.float64)
    errors, variances = (predicted - truth) ** 2, truth.var(0)
    varied = variances > 0
    if kind is TargetKind.TAGS:
        return np.asarray(1 - errors[:, varied].sum(1) / variances[varied].sum(), dtype=np.float64)
    return np.asarray((1 - errors[:, varied] / variances[varied]).mean(1), dtype=np.float64)
