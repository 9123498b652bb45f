"""MMD: the distributions of source and target features are brought together, as several kernels see them."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import Anatomy, Loss, Need, Step
from regraft.losses.shared.pairs import features_of


class Mmd(Loss):
    """Multi-kernel maximum mean discrepancy, unbiased (Gretton et al., 2012; Long et al., 2015).

    Gaussian kernels whose widths are the mean squared distance of the step's rows times powers of two. It moves the
    features, and needs a method that moves the base. Fewer than two rows on a side add nothing.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"target", "features"})
    whole_step: ClassVar[bool] = True

    kernels: int = Field(5, ge=1, le=16)
    """Number of Gaussian kernels, each twice as wide as the one before; of five, the factors are 1/8 to 2."""

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term."""
        least = -(self.kernels // 2) - 1
        return MeanDiscrepancy([2.0**power for power in range(least, least + self.kernels)])


class MeanDiscrepancy(nn.Module):
    """The unbiased estimate of the squared maximum mean discrepancy; it may be below 0."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, step: Step) -> Tensor:
        """Return the estimate, a scalar."""
        source, target = features_of(step)
        return mmd(source, target, kernel_widths(source, target, self.factors))


def kernel_widths(source: Tensor, target: Tensor, factors: list[float]) -> list[Tensor]:
    """Return 2 m times each factor, without gradient; m is the mean squared distance over all pairs of rows."""
    rows = torch.cat([source, target]).detach()
    mean = _squared_distances(rows).mean() if len(rows) else rows.sum()
    return [2 * factor * mean.clamp(min=torch.finfo(rows.dtype).tiny) for factor in factors]


def mmd(source: Tensor, target: Tensor, widths: list[Tensor]) -> Tensor:
    """Return the unbiased squared MMD of features (rows, width), summed over the kernels exp(-|x - y|^2 / width).

    It is 0 where a side has fewer than two rows.
    """
    first = len(source)
    if min(first, len(target)) < 2:
        return source.sum() * 0 + target.sum() * 0
    squared = _squared_distances(torch.cat([source, target]))
    kernel = torch.stack([torch.exp(-squared / width) for width in widths]).sum(0)
    within = _off_diagonal_mean(kernel[:first, :first]) + _off_diagonal_mean(kernel[first:, first:])
    return within - 2 * kernel[:first, first:].mean()


def _squared_distances(rows: Tensor) -> Tensor:
    """Return the squared distance of each row to each, (rows, rows); not by products, which lose digits."""
    return (rows.unsqueeze(1) - rows.unsqueeze(0)).square().sum(-1)


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))
