"""NLEEP: what clusters of the features say about the classes of rows that they were not fitted on."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from regraft.selection.folds import folds, others
from regraft.selection.score import FeatureScore, FeatureTarget, Floats, Scored, TargetKind
from regraft.selection.spectrum import centred

CLUSTERS_A_CLASS = 5
ROWS_A_CLUSTER = 5
"""Fewest fitted rows for each cluster: there are fewer clusters where rows are few."""
KEPT_VARIANCE = 0.8
"""Share of the variance that the principal axes keep."""
LEAST_VARIANCE = 1e-3
"""Added to the variances of clusters, for features whose root mean square is 1."""


class NegativeLogExpectedEmpiricalPrediction(FeatureScore):
    """Mean log probability of a row's class given its clusters (Li et al., 2021), cross-fitted in two halves.

    Clusters are Gaussians with axes of their own widths on principal axes. Judged on the rows they were fitted on, many
    clusters of one row each would look perfect. Each cluster's classes have one row of the prior added.
    """

    name: ClassVar[str] = "nleep"
    kinds: ClassVar[frozenset[TargetKind]] = frozenset({TargetKind.CLASSES})
    why_not: ClassVar[str] = "its clusters foretell one class a row"

    def _evaluate(self, features: Floats, target: FeatureTarget, draw: np.random.Generator) -> Scored:
        features, columns = centred(features), target.columns()
        found = np.empty(len(features))
        for half in folds(target, 2, draw):
            rows = others(half, len(features))
            seed = int(draw.integers(2**31))
            fitted, judged = _posteriors((features[rows], features[half]), columns.shape[1], seed)
            prior = (columns[rows].sum(0) + 1) / (len(rows) + columns.shape[1])
            classes = (fitted.T @ columns[rows] + prior) / (fitted.sum(0) + 1)[:, None]
            found[half] = np.log(((judged @ classes) * columns[half]).sum(1))
        return Scored.of_rows(found)


def _posteriors(sides: tuple[Floats, Floats], classes: int, seed: int) -> tuple[Floats, Floats]:
    """Return the probability of each cluster for rows of both sides, of which the first fits the clusters."""
    if not sides[0].std(0).any():
        return np.ones((len(sides[0]), 1)), np.ones((len(sides[1]), 1))
    axes = PCA(KEPT_VARIANCE, svd_solver="full").fit(sides[0])
    fitted, judged = (np.asarray(axes.transform(side)) for side in sides)
    clusters = max(1, min(CLUSTERS_A_CLASS * classes, len(fitted) // ROWS_A_CLUSTER))
    mixture = GaussianMixture(clusters, covariance_type="diag", reg_covar=LEAST_VARIANCE, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer clusters than rows alike, or a step too few
        mixture.fit(fitted)
    return np.asarray(mixture.predict_proba(fitted)), np.asarray(mixture.predict_proba(judged))
