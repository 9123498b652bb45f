"""Check of stored values: rows that the store holds are computed again and compared, and wrong shards set aside.

A trunk-id covers the known causes of a difference, and a row's key the content of its files. This check finds the
others: a task's own code, a patched library, a shard that an earlier edition or another tool filled with other values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.trunk.cache import BATCH, Autocast, CachedRows, Trunk, compute_rows
from regraft.trunk.feature_store import Features, Shard
from regraft.trunk.verify import SMALLEST

Amount = Literal["auto", "off", "all"] | int
"""How many of the rows that the store holds are checked."""
ONE_OF = 200
AT_LEAST, AT_MOST = 32, 512
"""Rows that `auto` checks: one of 200 within these bounds, so that a run with hits takes at most a twentieth longer."""


@dataclass(frozen=True, slots=True)
class WrongShard:
    """A shard that is set aside, since a value in it is not what the model computes."""

    prefix: str
    run: str
    """The run that wrote it; empty where that is not known."""
    deviation: float
    """The largest relative deviation that was seen in it; 0 for a shard that only shares the run with a wrong one."""

    def __str__(self) -> str:
        """Return its name in messages."""
        return f"{self.prefix} (written by {f'run {self.run}' if self.run else 'an unknown run'})"


def sample_size(hits: int, amount: Amount) -> int:
    """Return how many of the rows that the store holds are checked."""
    if amount == "off":
        return 0
    if amount == "all":
        return hits
    return min(hits, max(AT_LEAST, min(hits // ONE_OF, AT_MOST)) if amount == "auto" else amount)


@dataclass(frozen=True)
class HitCheck:
    """Compares stored values with those that a trunk's model computes now."""

    trunk: Trunk
    autocast: Autocast
    allowed: float
    """Largest relative deviation of a right value."""

    def wrong_shards(self, amount: Amount, seed: int, share: tuple[int, int] = (0, 1)) -> list[WrongShard]:
        """Compare this rank's share of a sample; set aside and return the shards with values that deviate.

        Every shard is in the sample while there are as many rows in it. Ranks with the same seed divide one sample.
        """
        found: dict[str, dict[Shard, float]] = {key: {} for key in self.trunk.features}
        self.trunk.adapted.eval_mode()
        rank, world = share
        batches = [(side, batch) for side, rows in self._sampled(amount, seed) for batch in _batches(side, rows)]
        for side, indices in batches[rank::world]:
            self._compare(side, indices, found)
        wrong = [one for key, shards in found.items() for one in self._set_aside(self.trunk.features[key], shards)]
        return sorted(wrong, key=str)

    def _sampled(self, amount: Amount, seed: int) -> list[tuple[CachedRows, NDArray[np.int64]]]:
        """Return the rows of each side that are compared: one of every shard first, then any."""
        sides = [(side, np.flatnonzero(self._held(side))) for side in self.trunk.sides]
        rows = np.concatenate([np.stack([np.full(len(held), at), held]) for at, (_, held) in enumerate(sides)], axis=1)
        count = sample_size(rows.shape[1], amount)
        if count < rows.shape[1]:
            order = np.random.default_rng(seed).permutation(rows.shape[1])
            first = self._is_first_of_a_shard(sides, order)
            rows = rows[:, order[np.argsort(~first, kind="stable")[:count]]]
        return [(side, rows[1, rows[0] == at]) for at, (side, _) in enumerate(sides)]

    def _held(self, side: CachedRows) -> NDArray[np.bool_]:
        """Return which rows of a side the store holds, (rows,)."""
        side.missing(self.trunk.cut.kept, self.trunk.features)
        places = [side.places[key][:, 0] >= 0 for key in self.trunk.features]
        return np.logical_and.reduce(places) if places else np.zeros(len(side.rows), dtype=bool)

    def _is_first_of_a_shard(
        self, sides: list[tuple[CachedRows, NDArray[np.int64]]], order: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return which rows, in that order, are the first of any shard."""
        first = np.zeros(len(order), dtype=bool)
        for key, features in self.trunk.features.items():
            chunks = np.concatenate([side.places[key][held, 0] for side, held in sides])[order]
            first[np.unique(features.chunk_shards()[chunks], return_index=True)[1]] = True
        return first

    def _compare(self, side: CachedRows, indices: list[int], found: Mapping[str, dict[Shard, float]]) -> None:
        """Compute rows, and note in `found` the shards whose values deviate."""
        with self.autocast():
            values, _ = compute_rows(self.trunk.adapted, self.trunk.cut, side.rows, indices)
        for index, row in zip(indices, values, strict=True):
            for boundary in self.trunk.cut.kept:
                if boundary.key not in found:
                    continue
                apart = deviation(self.trunk.value(side, boundary, index), row[boundary.key])
                if not apart <= self.allowed:
                    shard = self.trunk.features[boundary.key].shard(side.places[boundary.key][index])
                    found[boundary.key][shard] = max(apart, found[boundary.key].get(shard, 0.0))

    def _set_aside(self, features: Features, found: Mapping[Shard, float]) -> list[WrongShard]:
        """Set wrong shards aside, with all others that the same runs wrote."""
        apart = dict(found)
        for run in {shard.run for shard in found if shard.run}:
            apart = {**dict.fromkeys(features.shards_of(run), 0.0), **apart}
        if apart:
            features.distrust(apart, f"values differ by up to {max(found.values()):.1%} from what the model computes")
        return [WrongShard(shard.prefix, shard.run, far) for shard, far in apart.items()]


def deviation(stored: Tensor, computed: Tensor) -> float:
    """Return the largest difference over the largest finite computed value; infinite where only one is finite."""
    if stored.shape != computed.shape:
        return float("inf")
    dtype = torch.promote_types(computed.dtype, torch.float32)
    stored, computed = stored.to(dtype), computed.to(dtype)
    equal = (stored == computed) | (stored.isnan() & computed.isnan())
    if equal.all():
        return 0.0
    finite = torch.isfinite(computed)
    if not torch.isfinite(stored[~equal]).all() or not finite[~equal].all():
        return float("inf")
    return float((stored - computed)[~equal].abs().max()) / max(SMALLEST, float(computed[finite].abs().max()))


def _batches(side: CachedRows, rows: NDArray[np.int64]) -> list[list[int]]:
    """Return rows in batches of similar lengths."""
    ordered = rows[np.argsort(side.rows.lengths[rows], kind="stable")]
    return [ordered[start : start + BATCH].tolist() for start in range(0, len(ordered), BATCH)]
