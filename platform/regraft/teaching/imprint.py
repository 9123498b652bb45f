"""One more row of a linear head from a few examples, and a bias that moves few of the rows of before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betainc
from torch import Tensor

from regraft.data.kept_features import KeptFeatures
from regraft.errors import RequestError

AIM = 0.025
"""Share of rows of before that the new class should take."""
MOST = 0.03
"""Share of the kept rows of before that it may take at most."""
_ALIKE = 1e-6
"""Length of a direction, as a share of the features', below which it is rounding."""


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """Weight (classes, width) and bias (classes,) of a head, in float64."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (rows, classes) of features (rows, width)."""
        return features.double() @ self.weight.T + self.bias

    def with_class(self, row: Tensor, bias: float) -> HeadWeights:
        """Return the head with one class more, the last."""
        return HeadWeights(torch.cat([self.weight, row[None]]), torch.cat([self.bias, self.bias.new_tensor([bias])]))


@dataclass(frozen=True, eq=False)
class Imprint:
    """The row and the bias of a new class."""

    row: Tensor
    bias: float
    moved: int
    """Kept rows of before whose answer becomes the new class."""
    recognised: int | None
    """Examples that are recognised by a row that is made of the others; None for a single example."""


def imprinted(head: HeadWeights, kept: KeptFeatures, examples: Tensor) -> Imprint:
    """Return the new class of `examples`, features (rows, width), beside the classes of `head`.

    The row points from the mean of the classes' means to the mean of the examples, as long as the other rows are on
    average, where the mean of all rows counts for no class (Qi et al., 2018, for rows that are not normalised). The
    bias is calibrated by `calibrated`.
    """
    classes = len(head.bias)
    before = kept.classes < classes
    old, new = kept.features[before].double(), examples.double()
    centre = _mean_of_means(old, kept.classes[before])
    row = _row(head, centre, new.mean(dim=0))
    needed = _needed(head, centre, new)
    bias = calibrated(head.logits(old).amax(dim=1) - old @ row, needed)
    moved = int(((old @ row + bias) > head.logits(old).amax(dim=1)).sum())
    recognised = None if needed is None else int((needed < bias).sum())
    return Imprint(row, bias, moved, recognised)


def calibrated(allowed: Tensor, needed: Tensor | None) -> float:
    """Return the bias: a share AIM of all rows of before moves, of these at most MOST, and no more than is needed.

    `allowed` (rows,) is the bias from which each row of before moves, and `needed` that from which each example is
    recognised by a row made of the others.
    """
    ordered = allowed.sort().values
    most = math.floor(MOST * len(ordered))
    limit = float(ordered[most - 1] + ordered[most]) / 2 if most else float(ordered[0])
    if not most:  # no row may move, whatever the precision in which it is answered
        limit -= 1e-3 * max(1.0, abs(limit))
    limit = min(limit, quantile(ordered, AIM))
    if needed is None or float(needed.max()) >= limit:
        return limit
    return (float(needed.max()) + limit) / 2


def quantile(ordered: Tensor, share: float) -> float:
    """Return a quantile of sorted numbers as a mean of all, which varies less than one of them does.

    The weights are those of Harrell and Davis (1982).
    """
    count = len(ordered)
    bounds = betainc(share * (count + 1), (1 - share) * (count + 1), np.arange(count + 1) / count)
    return float(np.diff(bounds) @ ordered.numpy())


def _mean_of_means(features: Tensor, classes: Tensor) -> Tensor:
    return torch.stack([features[classes == number].mean(dim=0) for number in sorted(set(classes.tolist()))]).mean(
        dim=0
    )


def _row(head: HeadWeights, centre: Tensor, mean: Tensor) -> Tensor:
    """Return the row of a class whose examples have this mean. Raises RequestError for one like all others."""
    middle = head.weight.mean(dim=0)
    length = (head.weight - middle).norm(dim=1).mean()
    direction = mean - centre
    if direction.norm() <= _ALIKE * centre.norm().clamp_min(torch.finfo(torch.float64).tiny):
        raise RequestError("the examples are, on average, like the rows of all other classes: give others")
    row: Tensor = middle + length * direction / direction.norm()
    return row


def _needed(head: HeadWeights, centre: Tensor, examples: Tensor) -> Tensor | None:
    """Return the bias from which each example is recognised by a row of the others; None for a single one."""
    count = len(examples)
    if count < 2:
        return None
    others = (examples.sum(dim=0) - examples) / (count - 1)
    rows = torch.stack([_row(head, centre, mean) for mean in others])
    return head.logits(examples).amax(dim=1) - (rows * examples).sum(dim=1)
