"""The spectrum of centred features, from the smaller of their two Gram matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.selection.score import Floats

SMALLEST = 1e-12
"""Smallest squared singular value that counts, as a share of the largest."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Left singular vectors (rows, rank) and squared singular values (rank,) of centred features."""

    left: Floats
    squares: Floats


def centred(features: Floats) -> Floats:
    """Return features minus their mean, divided by their root mean square; rows that are all alike stay 0."""
    moved = features - features.mean(0)
    largest = np.abs(moved).max()
    if largest <= 1e-12 * np.abs(features).max():  # what is left of equal rows is rounding
        return np.zeros_like(moved)
    moved /= largest
    return np.asarray(moved / np.sqrt((moved**2).mean()), dtype=np.float64)


def spectrum(features: Floats) -> Spectrum:
    """Return the spectrum of features that are centred already."""
    rows, width = features.shape
    wide = width >= rows
    squares, vectors = np.linalg.eigh(features @ features.T if wide else features.T @ features)
    kept = squares > max(SMALLEST * squares[-1], 0)
    squares, vectors = squares[kept], vectors[:, kept]
    left = vectors if wide else features @ vectors / np.sqrt(squares)
    return Spectrum(np.asarray(left, dtype=np.float64), np.asarray(squares, dtype=np.float64))
