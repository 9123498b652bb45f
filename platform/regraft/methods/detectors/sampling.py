"""A bounded sample of patches that depends neither on the order of rows nor on how workers share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_STEP = 0x9E3779B97F4A7C15


@dataclass
class PatchSample:
    """The patches with the smallest keys; a key is a hash of row and position."""

    most: int
    keys: NDArray[np.uint64]
    patches: Tensor
    """(kept, width)."""
    rows: NDArray[np.int64]
    """The training row of each patch, (kept,)."""

    @classmethod
    def empty(cls, most: int, width: int) -> PatchSample:
        """Return a sample without patches that takes up to `most`."""
        return cls(most, np.zeros(0, np.uint64), torch.zeros(0, width), np.zeros(0, np.int64))

    def add(self, patches: Tensor, rows: Tensor) -> None:
        """Consider the patches (rows, positions, width) of training rows with these indices, (rows,)."""
        count, positions, width = patches.shape
        owners = np.repeat(rows.cpu().numpy(), positions)
        keys = patch_keys(owners, np.tile(np.arange(positions), count))
        wanted = self._smallest(keys)
        chosen = patches.reshape(-1, width)[torch.from_numpy(wanted).to(patches.device)].float().cpu()
        self._merge(keys[wanted], chosen, owners[wanted])

    def _smallest(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the indices of keys that could be among the smallest."""
        if len(self.keys) == self.most and self.most:
            return np.flatnonzero(keys < self.keys.max())
        return np.arange(len(keys))

    def _merge(self, keys: NDArray[np.uint64], patches: Tensor, rows: NDArray[np.int64]) -> None:
        every = np.concatenate([self.keys, keys])
        order = np.argsort(every, kind="stable")[: self.most]
        self.keys = every[order]
        self.patches = torch.cat([self.patches, patches])[torch.from_numpy(order)]
        self.rows = np.concatenate([self.rows, rows])[order]

    @classmethod
    def merged(cls, samples: Sequence[PatchSample]) -> PatchSample:
        """Return the sample of all workers' rows."""
        found, *others = samples
        for other in others:
            found._merge(other.keys, other.patches, other.rows)
        return found


def patch_keys(rows: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a well-mixed number for each pair of row and position (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        found = (rows.astype(np.uint64) << np.uint64(24)) + positions.astype(np.uint64)
        found = (found + np.uint64(1)) * np.uint64(_STEP)
        for shift, factor in _MIX:
            found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    return found ^ (found >> np.uint64(31))
