"""Two tests of whether two samples come from one distribution: a classifier's AUC, and MMD."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FOLDS = 5
RIDGE = 0.1
"""Penalty of the classifier, beside features of variance 1."""
PERMUTATIONS = 999
"""So that the smallest p is 0.001."""
MOST_FOR_MMD = 500
"""Most rows of a side in MMD, whose cost grows with their square."""


@dataclass(frozen=True)
class TwoSample:
    """The statistic of a test, and its one-sided p."""

    statistic: float
    p: float


def classifier_test(
    source: Tensor, target: Tensor, *, source_weights: Tensor | None = None, seed: int = 0
) -> TwoSample:
    """Return the out-of-fold AUC of a linear classifier of target against source rows (Lopez-Paz and Oquab, 2017).

    The AUC is the mean over folds; equal rows share a fold, so that a row on both sides says nothing. Its p is that of
    the folds' rank sums, and is no p where rows are weighted.
    """
    weights = torch.ones(len(source), dtype=torch.float64) if source_weights is None else source_weights
    rows = torch.cat([source, target])
    sides = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).bool()
    weights = torch.cat([weights, torch.ones(len(target), dtype=torch.float64)])
    found = []
    folds = _folds(rows, seed)
    for number in range(FOLDS):
        held = folds == number
        counts = int((held & ~sides).sum()), int((held & sides).sum())
        if weights[held & ~sides].sum() <= 0 or not counts[1]:
            continue
        scores = _scores(rows[~held], sides[~held], weights[~held], rows[held])
        auc = weighted_auc(scores[~sides[held]], weights[held & ~sides], scores[sides[held]])
        found.append((auc, (sum(counts) + 1) / (12 * counts[0] * counts[1])))
    if not found:
        return TwoSample(0.5, 1.0)
    auc = sum(value for value, _ in found) / len(found)
    error = math.sqrt(sum(variance for _, variance in found)) / len(found)
    return TwoSample(auc, 0.5 * math.erfc((auc - 0.5) / error / math.sqrt(2)))


def weighted_auc(source: Tensor, weights: Tensor, target: Tensor) -> float:
    """Return the chance that a target score exceeds a source score drawn by its weight; ties count one half."""
    ordered, order = source.sort()
    below = torch.cat([weights.new_zeros(1), weights[order].cumsum(0)])
    places = [torch.searchsorted(ordered, target, right=right) for right in (False, True)]
    return float((below[places[0]] + below[places[1]]).mean() / 2 / below[-1])


def mmd_test(source: Tensor, target: Tensor, *, seed: int = 0) -> TwoSample:
    """Return the unbiased squared MMD (Gretton et al., 2012) and its p over permutations of the two sides.

    The kernel is Gaussian, with the median distance of all rows as its width. Rows beyond 500 a side are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    source, target = (side[torch.randperm(len(side), generator=generator)[:MOST_FOR_MMD]] for side in (source, target))
    if min(len(source), len(target)) < 2:
        return TwoSample(0.0, 1.0)
    kernel = _gaussian_kernel(torch.cat([source, target]))
    rows, first = len(kernel), len(source)
    sides = torch.zeros(rows, PERMUTATIONS + 1, dtype=torch.float64)
    sides[:first, 0] = 1
    for number in range(1, PERMUTATIONS + 1):
        sides[torch.randperm(rows, generator=generator)[:first], number] = 1
    found = _squared_mmd(kernel, sides)
    # Rounding must not let permutations of equal rows count as smaller.
    larger = int((found[1:] >= found[0] - 1e-12).sum())
    return TwoSample(float(found[0]), (1 + larger) / (1 + PERMUTATIONS))


def standardised(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return both, each column with mean 0 and variance 1 over `rows`; a constant column becomes 0."""
    mean, spread = rows.mean(0), rows.std(0, correction=0)
    moves = spread > 1e-9 * mean.abs().clamp_min(1e-300)
    scale = torch.where(moves, spread, torch.inf)
    return (rows - mean) / scale, (others - mean) / scale


def _folds(rows: Tensor, seed: int) -> Tensor:
    """Return the fold of each row, at random; equal rows have one fold."""
    _, groups = torch.unique(rows, dim=0, return_inverse=True)
    count = int(groups.max()) + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (order % FOLDS)[groups]


def _scores(rows: Tensor, sides: Tensor, weights: Tensor, wanted: Tensor) -> Tensor:
    """Return the scores of `wanted` by ridge regression on the side, in which both sides weigh the same."""
    shares = torch.zeros_like(weights)
    for side in (sides, ~sides):
        total = weights[side].sum()
        if total <= 0:
            return torch.zeros(len(wanted), dtype=torch.float64)
        shares[side] = weights[side] / total / 2
    fitted, wanted = standardised(rows, wanted)
    roots = shares.sqrt()
    centre = (shares.unsqueeze(1) * fitted).sum(0)
    left = (fitted - centre) * roots.unsqueeze(1)
    aims = (2 * sides.double() - 1) * roots
    return (wanted - centre) @ _ridge(left, aims)


def _ridge(rows: Tensor, aims: Tensor) -> Tensor:
    """Return the coefficients, from the smaller of the two systems of equations."""
    if rows.shape[1] <= len(rows):
        system = rows.T @ rows + RIDGE * torch.eye(rows.shape[1], dtype=torch.float64)
        found: Tensor = torch.linalg.solve(system, rows.T @ aims)
        return found
    system = rows @ rows.T + RIDGE * torch.eye(len(rows), dtype=torch.float64)
    dual: Tensor = torch.linalg.solve(system, aims)
    return rows.T @ dual


def _gaussian_kernel(rows: Tensor) -> Tensor:
    """Return the kernel of all pairs, with zeros for pairs of a row with itself."""
    distances = torch.cdist(rows, rows)
    count = len(rows)
    pairs = distances[~torch.eye(count, dtype=torch.bool)]
    width = float(pairs.median()) or float(pairs.mean())
    kernel = (-distances.square() / (2 * width**2)).exp() if width else torch.ones_like(distances)
    return kernel.fill_diagonal_(0)


def _squared_mmd(kernel: Tensor, sides: Tensor) -> Tensor:
    """Return the unbiased squared MMD for each column of `sides`, which is 1 for rows of the first side."""
    first = sides[:, 0].sum()
    second = len(kernel) - first
    within = (kernel @ sides * sides).sum(0)
    across = kernel.sum(1) @ sides - within
    others = kernel.sum() - 2 * across - within
    return within / (first * (first - 1)) + others / (second * (second - 1)) - 2 * across / (first * second)
