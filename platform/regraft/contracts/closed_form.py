"""The rows of a closed-form method: features batch by batch, read as often as needed, and sums over all workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class FeatureBatch(NamedTuple):
    """Features of a few rows; of each row once over all workers."""

    features: Tensor
    """What the fitted layer reads, (rows, ...)."""
    targets: Tensor
    """What the task gives the method of each row, (rows,): its class number, or -1 for a row not to learn from."""
    rows: Tensor
    """Index of each row among all training rows, (rows,)."""


class FeatureRows(Protocol):
    """This worker's share of the training rows, and the communication with other workers."""

    classes: int
    """Number of the task's classes."""

    def __iter__(self) -> Iterator[FeatureBatch]:
        """Yield all batches of this worker; called once for each pass."""
        ...

    def summed(self, parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the sums of all parts of all workers, by name."""
        ...

    def gathered(self, value: T) -> list[T]:
        """Return the value of every worker, on every worker, in the same order."""
        ...
