"""Greedy k-centre coreset: patches such that every other one is near to one of them."""

from __future__ import annotations

import torch
from torch import Tensor

PROJECTED = 32
"""Directions at random in which distances are measured while patches are chosen (Roth et al., 2022, use 128)."""


def farthest_first(patches: Tensor, most: int) -> Tensor:
    """Return indices of up to `most` patches (patches, width), each the farthest from those before it.

    The first is the one nearest to the mean. Ends early where no patch differs from a chosen one.
    """
    points = _projected(patches)
    squares = points.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)
    chosen: list[int] = []
    number = int((points - points.mean(0)).square().sum(1).argmin()) if len(points) else 0
    for _ in range(min(most, len(points))):
        chosen.append(number)
        centre = points[number]
        away = squares + squares[number] - 2 * (points @ centre)
        torch.minimum(nearest, away.clamp_min_(0), out=nearest)
        nearest[number] = -1.0
        number = int(nearest.argmax())
        if nearest[number] <= 0:
            break
    return torch.tensor(chosen, dtype=torch.long)


def _projected(patches: Tensor) -> Tensor:
    width = patches.shape[1]
    if width <= PROJECTED:
        return patches.contiguous()
    directions = torch.randn(width, PROJECTED, generator=torch.Generator().manual_seed(0))
    found: Tensor = patches @ (directions / PROJECTED**0.5)
    return found
