"""Deep embedded validation: the risk on source rows, weighted towards those that look like target rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from regraft.adaptation.density_ratio import density_ratio
from regraft.adaptation.validator import Outputs, Validator

LARGEST_LOSS = 34.538776394910684
"""-ln(1e-15): the loss of a row whose class has no probability at all."""


class DeepEmbeddedValidation(Validator):
    """The negative risk of You et al. (2019): mean(w l) + eta mean(w) - eta, with eta = -cov(w l, w) / var(w).

    The loss l is the cross entropy, and w the density ratio of target to source by a classifier of the two. Where all
    weights are equal, eta is 0. Unlike the paper's single split, each half of the rows is weighted by a classifier of
    the other half, so no row weights itself and all source rows count.
    """

    name: ClassVar[str] = "dev"
    reads_source: ClassVar[bool] = True

    def score(self, outputs: Outputs) -> float | None:
        """Return the negative risk; None without source labels or with too few rows for a classifier."""
        labels = outputs.source_labels
        if labels is None or not outputs.finite or ((labels < 0) | (labels >= outputs.source_logits.shape[1])).any():
            return None
        weights = density_ratio(outputs.source_features, outputs.target_features)
        if weights is None:
            return None
        losses = F.cross_entropy(outputs.source_logits, labels, reduction="none").clamp(max=LARGEST_LOSS)
        return -risk(losses, weights)


def risk(losses: Tensor, weights: Tensor) -> float:
    """Return the weighted mean loss with the weights as control variate, for (rows,) each."""
    weighted = weights * losses
    variance = weights.var()
    covariance = torch.cov(torch.stack([weighted, weights]))[0, 1]
    eta = -covariance / variance if variance > 0 else torch.zeros_like(variance)
    return float(weighted.mean() + eta * weights.mean() - eta)
