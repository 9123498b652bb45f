"""A linear probe: what a head in closed form foretells of rows that it was not fitted on."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from regraft.selection.folds import folds, others
from regraft.selection.ridge import fit_ridge
from regraft.selection.row_scores import by_row
from regraft.selection.score import FeatureScore, FeatureTarget, Floats, Scored

FOLDS = 5


class LinearProbe(FeatureScore):
    """Accuracy or R2 of a ridge regression on standardised features, cross-fitted in five folds.

    Rows of a group stay in one fold. Classes are columns of 0 and 1, and the largest prediction wins.
    """

    name: ClassVar[str] = "linear_probe"

    def _evaluate(self, features: Floats, target: FeatureTarget, draw: np.random.Generator) -> Scored:
        columns = target.columns()
        whole, fewer = np.empty_like(columns), np.empty_like(columns)
        for fold in folds(target, FOLDS, draw):
            fitted = others(fold, len(target))
            half = draw.permutation(fitted)[: (len(fitted) + 1) // 2]
            whole[fold] = fit_ridge(features[fitted], columns[fitted]).predict(features[fold])
            fewer[fold] = fit_ridge(features[half], columns[half]).predict(features[fold])
        return Scored.of_rows(by_row(whole, target), by_row(fewer, target))
