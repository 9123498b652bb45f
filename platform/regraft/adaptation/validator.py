"""What a validator reads, the root of its family, and its interval against the source-only model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regraft.adaptation.sides import in_float64
from regraft.errors import RequestError

DRAWS = 200
"""Half samples of an interval."""
MIN_ROWS = 20
"""Fewest target rows for an interval: half of them are drawn."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """A candidate's view of both sides: features (rows, width) and logits (rows, classes), labels of the source.

    Source rows are best those that no candidate was fitted on. Their logits are those of the head for source rows: a
    correction changes how target rows are read, and leaves the source's reading as it was.
    """

    source_features: Tensor
    source_logits: Tensor
    source_labels: Tensor | None
    target_features: Tensor
    target_logits: Tensor

    def __post_init__(self) -> None:
        for name in ("source_features", "source_logits", "target_features", "target_logits"):
            object.__setattr__(self, name, in_float64(getattr(self, name)))
        if self.source_labels is not None:
            object.__setattr__(self, "source_labels", self.source_labels.detach().cpu().long())

    @property
    def finite(self) -> bool:
        """Whether all logits are numbers."""
        return bool(torch.isfinite(self.source_logits).all() and torch.isfinite(self.target_logits).all())

    def target_alone(self) -> Outputs:
        """Return the target logits without anything beside them."""
        rows, classes = self.target_logits.shape
        return Outputs(torch.empty(0, 0), torch.empty(0, classes), None, torch.empty(rows, 0), self.target_logits)

    def take(self, source: Tensor, target: Tensor) -> Outputs:
        """Return the rows with these indices."""
        labels = None if self.source_labels is None else self.source_labels[source]
        return Outputs(
            self.source_features[source],
            self.source_logits[source],
            labels,
            self.target_features[target],
            self.target_logits[target],
        )


class Validator(ABC):
    """A score of a model on target rows without labels; higher is better."""

    name: ClassVar[str]
    """How pages and documents call it."""
    reads_source: ClassVar[bool] = False
    """Whether it reads more than the target logits."""

    @abstractmethod
    def score(self, outputs: Outputs) -> float | None:
        """Return the score, or None where it cannot be computed."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a difference."""

    difference: float
    low: float
    high: float


def paired_interval(
    validator: Validator, candidate: Outputs, other: Outputs, *, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """Return the interval of the candidate's score minus the other's, on the same rows; None if there is no score.

    Rows are drawn in halves without replacement, which has the variance of a bootstrap (Politis and Romano, 1994) and
    no row twice: SND would take a second copy of a row for its neighbour.
    """
    if len(candidate.target_logits) != len(other.target_logits):
        raise RequestError("two candidates are compared on the same target rows")
    if not validator.reads_source:
        candidate, other = candidate.target_alone(), other.target_alone()
    full = _difference(validator, candidate, other)
    if full is None or len(candidate.target_logits) < MIN_ROWS:
        return None
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        rows = [_half(len(side), generator) for side in (candidate.source_logits, candidate.target_logits)]
        value = _difference(validator, candidate.take(*rows), other.take(*rows))
        if value is not None:
            found.append(value)
    if len(found) < 0.95 * draws:
        return None
    values = torch.tensor(found, dtype=torch.float64)
    low, high = (values - values.mean()).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(full, full + low, full + high)


def _difference(validator: Validator, candidate: Outputs, other: Outputs) -> float | None:
    first, second = validator.score(candidate), validator.score(other)
    return None if first is None or second is None else first - second


def _half(rows: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(rows, generator=generator)[: rows // 2]
