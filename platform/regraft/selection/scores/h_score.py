"""The H-score: how far apart the classes' means lie, measured by the features' covariance."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from regraft.selection.score import FeatureScore, FeatureTarget, Floats, Scored, TargetKind
from regraft.selection.spectrum import Spectrum, centred, spectrum


class ShrunkHScore(FeatureScore):
    """tr(pinv(shrunk covariance) (1 - shrinkage) cov(class means)), as Ibrahim et al. (2022) shrink it.

    The covariance is shrunk as Ledoit and Wolf (2004) do; without that, the score is classes - 1 for any features where
    rows are fewer than columns. Each tag is two classes, and the score is the mean over tags.
    """

    name: ClassVar[str] = "h_score"
    kinds: ClassVar[frozenset[TargetKind]] = frozenset({TargetKind.CLASSES, TargetKind.TAGS})
    why_not: ClassVar[str] = "it compares the means of classes"

    def _evaluate(self, features: Floats, target: FeatureTarget, draw: np.random.Generator) -> Scored:
        features = centred(features)
        columns = target.columns()
        found, shrinkage = spectrum(features), _shrinkage(features)
        variances = found.squares / len(features)
        target_variance = variances.sum() / features.shape[1]
        inverse = (1 - shrinkage) * variances / ((1 - shrinkage) * variances + shrinkage * target_variance)
        shares = _between(found, columns, inverse)
        if target.kind is TargetKind.CLASSES:
            return Scored(float(shares.sum()))
        shares += _between(found, 1 - columns, inverse)
        return Scored(float(shares[columns.std(0) > 0].mean()))


def _between(found: Spectrum, members: Floats, inverse: Floats) -> Floats:
    """Return each class's share of the trace, for memberships (rows, classes) of 0 and 1."""
    # A class's mean is m = X'h / n. In the spectrum's axes it is s U'h / n, and s2 / rows is each axis's variance.
    counts = np.maximum(members.sum(0), 1)
    return np.asarray((inverse[:, None] * (found.left.T @ members) ** 2).sum(0) / counts, dtype=np.float64)


def _shrinkage(features: Floats) -> float:
    """Return Ledoit and Wolf's shrinkage of the covariance of centred features, from the smaller Gram matrix."""
    rows, width = features.shape
    gram = features @ features.T if rows <= width else features.T @ features
    squared = float((gram**2).sum()) / rows**2
    mean_variance = float(gram.trace()) / rows / width
    distance = squared - width * mean_variance**2
    fourth = float(((features**2).sum(1) ** 2).sum()) / rows
    return min((fourth - squared) / rows, distance) / distance if distance > 0 else 0.0
