"""A discriminator of two domains whose gradient reaches the features with the opposite sign."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Adversary(nn.Module):
    """Two hidden layers with ReLU, without batch norm: its statistics would mix the domains."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, source: Tensor, target: Tensor, progress: float, weights: Tensor | None = None) -> Tensor:
        """Return half the sum of both sides' mean cross entropy, a scalar.

        `weights` are those of all rows, (source rows + target rows,).
        """
        rows = reversed_gradient(torch.cat([source, target]), reversal(progress))
        scores = self.layers(rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows).squeeze(1)
        domains = torch.cat([torch.ones_like(scores[: len(source)]), torch.zeros_like(scores[len(source) :])])
        losses = F.binary_cross_entropy_with_logits(scores, domains, reduction="none")
        losses = losses if weights is None else losses * weights.to(losses)
        sides = losses[: len(source)], losses[len(source) :]
        return torch.stack([side.mean() if len(side) else side.sum() for side in sides]).sum() / 2


def reversal(progress: float) -> float:
    """Return the factor of the reversed gradient: 0 at a run's first step, nearly 1 at its last."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def reversed_gradient(rows: Tensor, factor: float) -> Tensor:
    """Return the same values, through which gradients flow multiplied by -factor."""
    found: Tensor = _Reversal.apply(rows, factor)  # type: ignore[no-untyped-call]
    return found


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None
