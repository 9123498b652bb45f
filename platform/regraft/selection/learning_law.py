"""The law of a data curve: a - b n^-c, with everything that the measured scores leave open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.selection.learning_curve import MeasuredCurve
from regraft.selection.score import Floats

CONFIDENCE = 0.9
EXPONENTS = np.linspace(0.1, 1.5, 29)
"""Exponents c that are taken as equally likely beforehand."""
SAMPLES = 4000
LARGEST = 1.0
"""The largest score: accuracy, R2 and Brier skill end there."""
MISFIT = 0.003
"""How far a curve may stray from the law at a point, besides the noise of its scores."""
PRIOR = 1.0
"""Deviation of a and b beforehand, around the mean score and 0."""


@dataclass(frozen=True)
class CurvePrediction:
    """A score that the law foretells, and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class LearningLaw:
    """Samples of the law's parameters, each as likely as the others given the measured scores."""

    a: Floats
    b: Floats
    c: Floats
    rows: float
    """The unit of n: rows at which the law's score is a - b."""
    spread: float
    """Deviation between sets of so many labels: a new measurement differs from the law once more."""
    seed: int

    def at(self, rows: float) -> CurvePrediction:
        """Return the score that one set of so many labelled rows would have."""
        spread = self.spread * (self.rows / rows) ** 0.5  # more rows differ less
        noise = np.random.default_rng(self.seed).normal(0, spread, len(self.a))
        return _interval(self._values(rows) + noise)

    def gain(self, before: float, after: float) -> CurvePrediction:
        """Return by how much the score would rise from `before` to `after` labelled rows."""
        return _interval(self._values(after) - self._values(before))

    def _values(self, rows: float) -> Floats:
        return np.asarray(self.a - self.b * (rows / self.rows) ** -self.c, dtype=np.float64)


def fit_law(curve: MeasuredCurve, draw: np.random.Generator) -> LearningLaw:
    """Return the law of a measured curve, with b >= 0 and a at most the largest score.

    For each exponent a and b have a normal posterior in closed form, and the exponent is weighted by its evidence.
    """
    unit = float(curve.rows[-1])
    deviations = np.sqrt(curve.spreads**2 / len(curve.scores) + MISFIT**2)
    middle = float(np.average(curve.values, weights=deviations**-2))
    fits = [_posterior((curve.rows / unit) ** -c, curve.values - middle, deviations) for c in EXPONENTS]
    weights = np.exp(np.array([log for _, _, log in fits]) - max(log for _, _, log in fits))
    chosen = draw.choice(len(EXPONENTS), 8 * SAMPLES, p=weights / weights.sum())
    means, roots = np.stack([fit[0] for fit in fits]), np.stack([fit[1] for fit in fits])
    found = means[chosen] + np.einsum("nij,nj->ni", roots[chosen], draw.normal(size=(len(chosen), 2)))
    a, b, c = found[:, 0] + middle, found[:, 1], EXPONENTS[chosen]
    lawful = np.flatnonzero((b >= 0) & (a <= max(LARGEST, middle)))[:SAMPLES]
    if len(lawful) < SAMPLES // 40:  # scores that fall with more labels: no law of this kind
        lawful = np.argsort(np.abs(np.minimum(b, 0)))[:SAMPLES]
        b = np.maximum(b, 0)
        a = np.minimum(a, max(LARGEST, middle))
    spread = float(np.hypot(curve.spreads[-1], MISFIT))
    return LearningLaw(a[lawful], b[lawful], c[lawful], unit, spread, int(draw.integers(2**31)))


def _posterior(powers: Floats, values: Floats, deviations: Floats) -> tuple[Floats, Floats, float]:
    """Return mean, root of the covariance, and log evidence of (a, b) for values a - b * powers with that noise."""
    design = np.stack([np.ones_like(powers), -powers], 1) / deviations[:, None]
    seen = values / deviations
    covariance = np.linalg.inv(design.T @ design + np.eye(2) / PRIOR**2)
    mean = covariance @ design.T @ seen
    error = float(seen @ seen - mean @ design.T @ seen)
    log = 0.5 * (float(np.linalg.slogdet(covariance)[1]) - error)
    return mean, np.linalg.cholesky(covariance), log


def _interval(samples: Floats) -> CurvePrediction:
    low, middle, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2])
    return CurvePrediction(float(middle), float(low), float(high))
