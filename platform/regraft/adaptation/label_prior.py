"""How often each class occurs among target rows, from a source model's calibrated probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from regraft.adaptation.calibration import Calibration, calibrate
from regraft.errors import RequestError

LEVEL = 0.001
"""Chance that an interval of any class excludes a prior that did not move."""
LEAST_MOVE = 0.05
"""Least share of rows that must change their class between the priors."""
RECALIBRATED, REDRAWN = 20, 10
"""Resamples of the source rows, and resamples of the target rows for each of them."""
PSEUDO_ROWS = 10.0
"""Target rows that are added, divided as the source's prior is: no share is 0, and few rows move it little."""
STEPS, TOLERANCE = 2000, 1e-9


@dataclass(frozen=True, eq=False)
class PriorEstimate:
    """Shares of the classes on both sides (classes,), with simultaneous bounds of the target's at the level .001."""

    source: Tensor
    target: Tensor
    low: Tensor
    high: Tensor
    calibration: Calibration
    moved: bool
    """Whether the bounds exclude the source's shares, and the shares differ enough to matter."""

    @property
    def distance(self) -> float:
        """Half the sum of absolute differences of the shares."""
        return float((self.target - self.source).abs().sum() / 2)

    @property
    def ratio(self) -> Tensor:
        """The target's share over the source's, (classes,); 1 for a class without source rows."""
        present = self.source > 0
        return torch.where(present, self.target / self.source.where(present, torch.ones(())), torch.ones(()).double())


def point_estimate(source_logits: Tensor, labels: Tensor, target_logits: Tensor) -> PriorEstimate:
    """Return the estimate without a bootstrap: bounds are 0 and 1."""
    calibration = calibrate(source_logits, labels)
    prior = class_shares(labels, source_logits.shape[1])
    found = expectation_maximisation(calibration.logits(target_logits), prior)
    return PriorEstimate(prior, found, torch.zeros_like(found), torch.ones_like(found), calibration, False)


def estimate_prior(source_logits: Tensor, labels: Tensor, target_logits: Tensor, *, seed: int = 0) -> PriorEstimate:
    """Return the target's prior by EM (Saerens et al., 2002), with bounds by a bootstrap of both sides.

    Source rows are those that the head was not fitted on: calibrated on its training rows, it looks too certain.
    """
    point = point_estimate(source_logits, labels, target_logits)
    generator = torch.Generator().manual_seed(seed)
    moves, targets = [], []
    for _ in range(RECALIBRATED):
        rows = torch.randint(len(labels), (len(labels),), generator=generator)
        calibration = calibrate(source_logits[rows], labels[rows])
        prior = class_shares(labels[rows], source_logits.shape[1])
        counts = _redrawn(len(target_logits), generator)
        found = expectation_maximisation(calibration.logits(target_logits), prior, counts=counts, start=point.target)
        moves.append(found - prior)
        targets.append(found)
    spread, errors = torch.cat(targets).std(0), torch.cat(moves).std(0)
    width = NormalDist().inv_cdf(1 - LEVEL / 2 / len(spread))
    outside = ((point.target - point.source).abs() > width * errors) & (point.source > 0)
    low, high = (point.target - width * spread).clamp_min(0), (point.target + width * spread).clamp_max(1)
    moved = bool(outside.any()) and point.distance >= LEAST_MOVE
    return PriorEstimate(point.source, point.target, low, high, point.calibration, moved)


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """Return the share of each class, (classes,). Raises RequestError without rows."""
    if not len(labels):
        raise RequestError("there are no labelled source rows to count classes of")
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def expectation_maximisation(
    logits: Tensor, prior: Tensor, *, counts: Tensor | None = None, start: Tensor | None = None
) -> Tensor:
    """Return the shares of the classes among rows with these calibrated logits; (classes,), or (draws, classes).

    `counts` (draws, rows) says how often each row was drawn. Ten more rows are divided as the prior is. A class
    without source rows gets no share: its probabilities are worth nothing.
    """
    present = prior > 0
    likelihood = (logits - prior.where(present, torch.ones(()).double()).log()).where(present, -torch.inf)
    likelihood = (likelihood - likelihood.amax(1, keepdim=True)).exp()
    weights = torch.ones(1, len(logits), dtype=torch.float64) if counts is None else counts
    total = weights.sum(1, keepdim=True)
    shares = ((prior if start is None else start) + 1e-6 * prior).expand(len(weights), -1)
    for _ in range(STEPS):
        before = shares
        shares = shares * ((weights / (shares @ likelihood.T).clamp_min(1e-300)) @ likelihood)
        shares = (shares + PSEUDO_ROWS * prior) / (total + PSEUDO_ROWS)
        if float((shares - before).abs().max()) < TOLERANCE:
            break
    shares = shares / shares.sum(1, keepdim=True)
    return shares[0] if counts is None else shares


def _redrawn(rows: int, generator: torch.Generator) -> Tensor:
    """Return how often each row occurs in each resample, (resamples, rows)."""
    drawn = torch.randint(rows, (REDRAWN, rows), generator=generator)
    return torch.zeros(REDRAWN, rows, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
