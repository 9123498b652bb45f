"""The rows of two domains as features, and the linear head that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from regraft.errors import RequestError

SOURCE, TARGET = "data.train", "data.target"
"""The keys of a spec that name the two sides' rows."""


@dataclass(frozen=True, eq=False)
class Side:
    """Rows of one domain: features (rows, width) and labels (rows,), if known. Both are kept on the CPU."""

    features: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", in_float64(self.features))
        if self.features.ndim != 2:
            raise RequestError(f"features are (rows, width), these are {tuple(self.features.shape)}")
        if self.labels is not None:
            object.__setattr__(self, "labels", self.labels.detach().cpu().long())
            if self.labels.shape != self.features.shape[:1]:
                raise RequestError(f"{len(self.features)} rows have {len(self.labels)} labels")

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.features)

    def sample(self, most: int, seed: int) -> Self:
        """Return `most` rows, chosen by the seed and in their order, or all of them."""
        if self.rows <= most:
            return self
        chosen = torch.randperm(self.rows, generator=torch.Generator().manual_seed(seed))[:most].sort().values
        return type(self)(self.features[chosen], None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear layer: weight (classes, width) and bias (classes,)."""

    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", in_float64(self.weight))
        object.__setattr__(self, "bias", in_float64(self.bias))
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            shapes = tuple(self.weight.shape), tuple(self.bias.shape)
            raise RequestError(f"a linear head has a weight (classes, width) and a bias (classes,), not {shapes}")

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.bias)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (rows, classes) of features (rows, width)."""
        return in_float64(features) @ self.weight.T + self.bias


def in_float64(values: Tensor) -> Tensor:
    """Return the values in float64 on the CPU, without gradient."""
    return values.detach().to("cpu", torch.float64)


def check_sides(source: Side, target: Side, head: LinearHead) -> None:
    """Raise RequestError, naming the side, where rows are missing, unlike the head, not finite or wrongly labelled."""
    for side, where in ((source, SOURCE), (target, TARGET)):
        if side.rows < 2:
            raise RequestError(f"{side.rows} rows are given; a domain is known from two rows at least", where=where)
        if side.features.shape[1] != head.weight.shape[1]:
            given, wanted = side.features.shape[1], head.weight.shape[1]
            raise RequestError(f"features are {given} wide, and the head reads {wanted}", where=where)
        if not torch.isfinite(side.features).all():
            raise RequestError("some features are infinite or no number", where=where)
    labels = source.labels
    if labels is not None and ((labels < 0) | (labels >= head.classes)).any():
        raise RequestError(f"labels are 0 to {head.classes - 1}, those of the head's classes", where=SOURCE)
