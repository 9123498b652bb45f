"""The evidence of a Bayesian linear model, and its maximum over the precisions of weights and of noise."""

from __future__ import annotations

import numpy as np

from regraft.selection.score import Floats
from regraft.selection.spectrum import Spectrum

RATIOS = np.logspace(-8, 8, 161)
"""Ratios of the two precisions from which the maximum is searched, as multiples of the mean squared singular value."""
STEPS = 60
"""Golden sections around the best ratio: each leaves 0.62 of the bracket."""
GOLDEN = (5**0.5 - 1) / 2
LEAST_RESIDUAL = 1e-12
"""Least share of a column that is noise: a column that features repeat exactly would have an infinite evidence."""


def log_evidence(found: Spectrum, column: Floats, alpha: float, beta: float) -> float:
    """Return ln p(column) for weights of precision `alpha` and noise of precision `beta`.

    This is the density of N(0, 1 / beta + F F' / alpha), where F has that spectrum. Each squared singular value costs
    (ln(alpha) - ln(alpha + beta s2)) / 2: k = min(rows, width) times alpha, not `width` times as LogME's published code
    has it, which is wrong for fewer rows than columns.
    """
    rows, squares = len(column), found.squares
    projected = (found.left.T @ column) ** 2
    residual = max(float(column @ column - projected.sum()), 0.0)
    norm = beta**2 * float((squares * projected / (alpha + beta * squares) ** 2).sum())
    error = residual + alpha**2 * float((projected / (alpha + beta * squares) ** 2).sum())
    determinant = len(squares) * np.log(alpha) - float(np.log(alpha + beta * squares).sum()) + rows * np.log(beta)
    return float(determinant - beta * error - alpha * norm - rows * np.log(2 * np.pi)) / 2


def best_evidence(found: Spectrum, columns: Floats, freedom: int) -> Floats:
    """Return the largest ln evidence of each column over both precisions, divided by the degrees of freedom.

    Given the ratio alpha / beta, the best beta has a closed form; the ratio is searched on a grid, then by golden
    sections. `freedom` is one less than the rows where rows and columns are centred.
    """
    powers = (found.left.T @ columns) ** 2
    total = (columns**2).sum(0)
    residuals = np.maximum(total - powers.sum(0), LEAST_RESIDUAL * total)

    def profile(logs: Floats) -> Floats:
        """Return the evidence at the best beta of each column for these ln ratios (columns,)."""
        ratios = np.exp(logs)
        error = residuals + (powers * (ratios / (ratios + found.squares[:, None]))).sum(0)
        determinant = np.log1p(found.squares[:, None] / ratios).sum(0)
        return np.asarray(-freedom * (np.log(2 * np.pi * error / freedom) + 1) - determinant) / 2

    scale = found.squares.mean() if len(found.squares) else 1.0
    grid = np.log(RATIOS * scale)
    values = np.stack([profile(np.full(len(total), at)) for at in grid])
    best, width = grid[values.argmax(0)], grid[1] - grid[0]
    low, high = best - width, best + width
    for _ in range(STEPS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        better = profile(left) > profile(right)
        low, high = np.where(better, low, left), np.where(better, right, high)
    return np.asarray(np.maximum(profile((low + high) / 2), values.max(0)) / freedom, dtype=np.float64)
