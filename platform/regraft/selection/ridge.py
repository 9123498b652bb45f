"""Linear heads in closed form: ridge regression whose penalty is chosen by leave-one-out errors, also closed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.selection.score import Floats
from regraft.selection.spectrum import Spectrum, spectrum

PENALTIES = 10.0 ** np.arange(-4, 2.5, 0.5)
"""Penalties that are tried, as multiples of the mean squared singular value."""
NO_SPREAD = 1e-6
"""A column whose spread is smaller than this share of the largest one is left out: it is rounding."""


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A fitted linear head on features as they are."""

    weight: Floats
    """(width, columns)."""
    bias: Floats
    """(columns,)."""

    def predict(self, features: Floats) -> Floats:
        """Return the columns of rows of features."""
        return np.asarray(features @ self.weight + self.bias, dtype=np.float64)


def fit_ridge(features: Floats, columns: Floats) -> LinearFit:
    """Return the ridge regression of columns (rows, columns) on standardised features (rows, width).

    One penalty serves all columns: the one with the least sum of squared leave-one-out errors.
    """
    mean, level = features.mean(0), columns.mean(0)
    spread = features.std(0)
    used = spread > max(NO_SPREAD * spread.max(), 1e-12 * np.abs(mean).max())
    if not used.any():
        return LinearFit(np.zeros((features.shape[1], columns.shape[1])), level)
    scale = np.where(used, spread, np.inf)
    standard = (features - mean) / scale
    found = spectrum(standard)
    projected = found.left.T @ (columns - level)
    penalty = _penalty(found, projected, columns - level)
    # V diag(s / (s2 + penalty)) U'y, with V = X'U / s
    weight = standard.T @ (found.left @ (projected / (found.squares + penalty)[:, None])) / scale[:, None]
    return LinearFit(weight, level - mean @ weight)


def _penalty(found: Spectrum, projected: Floats, columns: Floats) -> float:
    rows = len(columns)
    penalties = PENALTIES * found.squares.sum() / len(found.squares)
    powers, errors = found.left**2, []
    for penalty in penalties:
        shrunk = found.squares / (found.squares + penalty)
        leverage = powers @ shrunk + 1 / rows  # the mean is fitted too
        residuals = columns - found.left @ (shrunk[:, None] * projected)
        errors.append(float(((residuals / np.maximum(1 - leverage, 1e-12)[:, None]) ** 2).sum()))
    return float(penalties[int(np.argmin(errors))])
