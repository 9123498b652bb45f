"""The rows that choose a base: a sample of the training rows, found in the store by their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Task
from regraft.data.rows import Rows
from regraft.trunk.boundary import Boundary
from regraft.trunk.cache import CachedRows
from regraft.trunk.feature_store import HASH, Features, row_hashes

ONE_LABEL = "prototypes"
"""What tasks with one label a row support."""


def sampled(task: Task, train: Rows, most: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of at most `most` training rows, in order; classes keep their shares.

    Of a class with several rows at least two are drawn where there is room: a single row cannot be judged by others.
    """
    count = len(train)
    if count <= most:
        return np.arange(count)
    draw = np.random.default_rng(seed)
    if ONE_LABEL not in task.supports:
        return np.sort(draw.choice(count, most, replace=False))
    classes = [draw.permutation(rows) for rows in train.by_label().values()]
    first = np.concatenate([rows[:2] for rows in classes])[:most]
    others = np.concatenate([rows[2:] for rows in classes])
    places = np.linspace(0, len(others) - 1, most - len(first)).round().astype(np.int64)
    return np.sort(np.concatenate([first, others[places]]))


class SampledRows(CachedRows):
    """A sample of a side's rows; the others are neither hashed nor missed."""

    def __init__(self, rows: Rows, images: Iterable[str], chosen: NDArray[np.int64]) -> None:
        super().__init__(rows, images)
        self._files, self.chosen = tuple(images), chosen

    @cached_property
    def hashes(self) -> NDArray[np.bytes_]:
        """Keys of the sampled rows in the feature store (rows,), empty for the others."""
        found = np.zeros(len(self.rows), dtype=f"S{HASH}")
        found[self.chosen] = row_hashes(self.rows, self._files, self.chosen)
        return found

    def missing(self, boundaries: Sequence[Boundary], features: Mapping[str, Features]) -> NDArray[np.bool_]:
        """Look up the values of the sampled rows; return a mask (rows,) of those that lack any."""
        among = np.zeros(len(self.rows), dtype=bool)
        among[self.chosen] = True
        return super().missing(boundaries, features) & among
