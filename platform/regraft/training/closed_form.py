"""Heads that are solved without gradient steps, from sums over one or two passes of the training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from regraft.bases.adapted import Adapted
from regraft.contracts import Method, Note
from regraft.data.rows import Rows
from regraft.training.evaluate import encoded, ordered, to_device
from regraft.training.harness import Harness

KEPT_BYTES = 256 << 20
"""Features of the first pass that are kept for the second one; rows beyond that are computed again."""


def solve_head(adapted: Adapted, method: Method, rows: Rows, harness: Harness, *, size: int) -> None:
    """Set the head from sums over all rows of all ranks, read in batches of `size` rows."""
    adapted.eval_mode()
    classes = len(adapted.context.labels)
    features = FeatureBatches(adapted, rows, harness, size, kept_bytes=KEPT_BYTES if method.reads_twice else 0)
    with torch.inference_mode():
        sums = _summed((method.statistics(*batch, classes) for batch in features), harness)
        if method.reads_twice:
            sums |= _summed((method.refine(*batch, sums) for batch in features), harness)
    head = adapted.linear_head()
    with torch.no_grad():
        note = method.solve(head, {name: value.clone() for name, value in sums.items()})
    if note:
        harness.emit(Note(note))


def fit_head(adapted: Adapted, rows: Rows, harness: Harness, *, size: int) -> None:
    """Set the head of a method that trains features from those of all rows of all ranks, in batches of `size` rows."""
    adapted.eval_mode()
    with torch.inference_mode():
        mine = [(found.float().cpu(), labels.cpu()) for found, labels in FeatureBatches(adapted, rows, harness, size)]
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
    """Return a copy of `head` solved from the features (rows, width) and labels (rows,) of all rows."""
    found = deepcopy(head)
    with torch.no_grad():
        sums = method.statistics(features, labels, classes)
        if method.reads_twice:
            sums |= method.refine(features, labels, sums)
        method.solve(found, sums)
    return found


class FeatureBatches:
    """This rank's features and labels, batch by batch; those that fit into `kept_bytes` are computed once."""

    def __init__(self, adapted: Adapted, rows: Rows, harness: Harness, size: int, *, kept_bytes: int = 0) -> None:
        self._adapted, self._rows, self._harness, self._size = adapted, rows, harness, size
        self._left = kept_bytes
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features (rows, width) and labels (rows,)."""
        for number, (indices, own) in enumerate(ordered(self._rows, self._size, self._harness)):
            if number in self._kept:
                yield self._kept[number]
                continue
            batch = to_device(encoded(self._adapted, self._rows, indices, train=False), self._harness.device)
            found = self._adapted.features(batch)[:own], batch["labels"][:own]
            if found[0].nbytes <= self._left:
                self._left -= found[0].nbytes
                self._kept[number] = found
            yield found


def _summed(parts: Iterable[dict[str, Tensor]], harness: Harness) -> dict[str, Tensor]:
    """Return the sums of all parts of all ranks."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        sums = {name: sums[name] + value if sums else value for name, value in part.items()}
    return {name: harness.sum(value) for name, value in sums.items()} if harness.world > 1 else sums
