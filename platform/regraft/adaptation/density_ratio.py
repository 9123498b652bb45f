"""The density of target rows over that of source rows, at the source rows, by a classifier of the two."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from regraft.adaptation.two_sample import standardised

MIN_ROWS = 10
"""Fewest rows of a side: half of them fit the classifier."""
MOST_ROWS = 2000
"""Most rows of a side that fit a classifier."""


def density_ratio(source: Tensor, target: Tensor) -> Tensor | None:
    """Return p_target / p_source of each source row, (rows,), for features (rows, width); None for too few rows.

    The rows of even places are weighted by a logistic regression of the odd ones, and the other way round.
    """
    if min(len(source), len(target)) < MIN_ROWS:
        return None
    ratios = torch.empty(len(source), dtype=torch.float64)
    for half in (0, 1):
        ratios[half::2] = _ratio_by(source[1 - half :: 2], target[1 - half :: 2], source[half::2])
    return ratios if torch.isfinite(ratios).all() else None


def _ratio_by(source: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    source, target = source[:MOST_ROWS], target[:MOST_ROWS]
    fitted, wanted = standardised(torch.cat([source, target]), rows)
    domains = torch.cat([torch.zeros(len(source)), torch.ones(len(target))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # on sides that lie apart the ratio is extreme anyway
        classifier = LogisticRegression(max_iter=300).fit(fitted.numpy(), domains.numpy())
    odds = torch.from_numpy(classifier.decision_function(wanted.numpy())).double().clamp(-30, 30).exp()
    return odds * len(source) / len(target)
