"""Layers that are fitted without gradient steps, in one or two passes over the features of the training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from regraft.bases.adapted import Adapted
from regraft.contracts import FeatureBatch, Method, Note
from regraft.data.rows import Rows
from regraft.training.evaluate import encoded, ordered, to_device
from regraft.training.harness import Harness

T = TypeVar("T")

KEPT_BYTES = 256 << 20
"""Features of the first pass that are kept for the second one; rows beyond that are computed again."""


def solve_head(adapted: Adapted, method: Method, rows: Rows, harness: Harness, *, size: int) -> None:
    """Fit the model's layer to the features of all rows of all ranks, read in batches of `size` rows."""
    adapted.eval_mode()
    layer = adapted.fitted_layer()
    features = FeatureBatches(adapted, rows, harness, size, kept_bytes=KEPT_BYTES if method.reads_twice else 0)
    with torch.no_grad():
        note = method.fit(layer, features)
    if note:
        harness.emit(Note(note))


def fit_head(adapted: Adapted, rows: Rows, harness: Harness, *, size: int) -> None:
    """Set the head of a method that trains features from those of all rows of all ranks, in batches of `size` rows."""
    adapted.eval_mode()
    with torch.inference_mode():
        batches = FeatureBatches(adapted, rows, harness, size)
        mine = [(batch.features.float().cpu(), batch.targets.cpu()) for batch in batches]
    every = [part for rank in harness.gather(mine) for part in rank]
    head = adapted.linear_head()
    if harness.first:  # one rank solves: others on other processors could differ in a last bit
        features, labels = (torch.cat(parts).clone() for parts in zip(*every, strict=True))
        adapted.method.fit_head(head, features, labels)
    values = harness.from_first([value.detach().cpu() for value in head.parameters()])
    with torch.no_grad():
        for parameter, value in zip(head.parameters(), values, strict=True):
            parameter.copy_(value)


def solved(method: Method, features: Tensor, labels: Tensor, classes: int, *, head: nn.Linear) -> nn.Linear:
    """Return a copy of `head` fitted to the features (rows, width) and labels (rows,) of all rows."""
    found = deepcopy(head)
    with torch.no_grad():
        method.fit(found, _HeldFeatures(features, labels, classes))
    return found


class _HeldFeatures:
    """All rows in memory, as one batch (`contracts.FeatureRows`)."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self.classes = classes
        self._batch = FeatureBatch(features, labels, torch.arange(len(features)))

    def __iter__(self) -> Iterator[FeatureBatch]:
        yield self._batch

    def summed(self, parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the sums of the parts."""
        return _added(parts)

    def gathered(self, value: T) -> list[T]:
        """Return the value in a list."""
        return [value]


class FeatureBatches:
    """This rank's features batch by batch (`contracts.FeatureRows`); those that fit into `kept_bytes` are computed
    once."""

    def __init__(self, adapted: Adapted, rows: Rows, harness: Harness, size: int, *, kept_bytes: int = 0) -> None:
        self.classes = len(adapted.context.labels)
        self._adapted, self._rows, self._harness, self._size = adapted, rows, harness, size
        self._left = kept_bytes
        self._kept: dict[int, FeatureBatch] = {}

    def __iter__(self) -> Iterator[FeatureBatch]:
        """Yield features (rows, ...) with their targets and the indices of their rows, both (rows,)."""
        for number, (indices, own) in enumerate(ordered(self._rows, self._size, self._harness)):
            if number in self._kept:
                yield self._kept[number]
                continue
            batch = to_device(encoded(self._adapted, self._rows, indices, train=False), self._harness.device)
            targets = self._adapted.task.fit_targets(batch)
            features = self._adapted.features(batch)
            found = FeatureBatch(features[:own], targets[:own], torch.from_numpy(indices[:own]))
            if found.features.nbytes <= self._left:
                self._left -= found.features.nbytes
                self._kept[number] = found
            yield found

    def summed(self, parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the sums of all parts of all ranks."""
        sums = _added(parts)
        return {name: self._harness.sum(value) for name, value in sums.items()} if self._harness.world > 1 else sums

    def gathered(self, value: T) -> list[T]:
        """Return every rank's value, in the order of the ranks."""
        found = self._harness.gather([value])
        return [one for (one,) in self._harness.from_first(found)]


def _added(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    for part in parts:
        sums = {name: sums[name] + value if sums else value for name, value in part.items()}
    return sums
