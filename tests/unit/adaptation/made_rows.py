"""Rows of Gaussian classes with a known shift, and the head that is right for the source."""

from __future__ import annotations

import torch
from torch import Tensor

from regraft.adaptation.sides import LinearHead, Side
from regraft.adaptation.validator import Outputs

MEANS = torch.tensor([[2.0, 0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0, 0], [0, 0, 2.0, 0, 0, 0]], dtype=torch.float64)
HEAD = LinearHead(MEANS, -MEANS.square().sum(1) / 2)
"""Bayes' own for equally frequent classes of unit variance."""


def drawn(rows: int, seed: int, shares: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3), spread: float = 1.0) -> Side:
    """Rows whose classes have these shares."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor(shares), rows, replacement=True, generator=generator)
    noise = torch.randn(rows, MEANS.shape[1], generator=generator, dtype=torch.float64)
    return Side(MEANS[labels] + spread * noise, labels)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_outputs(rows: int = 60, classes: int = 4, width: int = 5, seed: int = 0) -> Outputs:
    """Outputs without meaning."""
    labels = torch.arange(rows) % classes
    parts = [random(rows, count, seed=seed + at) for at, count in enumerate((width, classes, width, classes))]
    return Outputs(parts[0], 2 * parts[1], labels, parts[2] + 0.3, 2 * parts[3])
