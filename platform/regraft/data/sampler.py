"""Which rows does optimizer step N see? The same ones on every machine, in every process, after every crash.

Everything here is a pure function of its arguments: a run that resumes at step N, or continues on another number of
workers, asks again and gets the same answer; no state of a generator is ever saved.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

MEGA = 50
"""Global batches that bucketing sorts together: enough for batches of like length, few enough to stay random."""


def batches(
    seed: int, epoch: int, rows: int | NDArray[np.integer], batch_size: int, bucketing: bool = False
) -> list[Indices]:
    """The global batches of an epoch: row indices, each row exactly once.

    `rows` is a number of rows, or their lengths, which bucketing needs (without lengths there is nothing to sort by
    and it is left out). Bucketing puts rows of like length into one batch: the shuffled rows are cut into pieces of
    `MEGA` batches, each is sorted by length and cut, and the batches are shuffled. All batches have `batch_size` rows
    but one, which holds the remainder: the last one, or with bucketing any.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it is at least 1")
    count = rows if isinstance(rows, int) else len(rows)
    order = shuffled(count, "rows", seed, epoch)
    if not bucketing or isinstance(rows, int):
        return _cut(order, batch_size)
    pieces: list[Indices] = []
    for piece in _cut(order, batch_size * MEGA):
        by_length = piece[np.argsort(rows[piece], kind="stable")]
        pieces.extend(_cut(by_length, batch_size))
    return [pieces[number] for number in shuffled(len(pieces), "batches", seed, epoch)]


def share(batch: Indices, rank: int, world: int, accumulation: int = 1) -> list[Indices]:
    """The micro-batches of one rank: always `accumulation` of them, nearly equal, some empty in a short batch.

    Over all ranks they hold the batch exactly once. A rank takes every world-th row, so that a batch sorted by length
    costs every rank the same; the same count everywhere keeps collective operations in step.
    """
    if not 0 <= rank < world or accumulation < 1:
        raise ValueError(f"rank {rank} of {world} with accumulation {accumulation} does not exist")
    return list(np.array_split(batch[rank::world], accumulation))


def batches_per_epoch(rows: int, batch_size: int) -> int:
    """How many global batches `batches` gives."""
    return -(-rows // batch_size)


def total_steps(rows: int, batch_size: int, epochs: int, steps: int | None = None) -> int:
    """Optimizer steps of a whole run; `steps`, when given, ends it (earlier or later than `epochs` would)."""
    return steps if steps is not None else epochs * batches_per_epoch(rows, batch_size)


def position(step: int, per_epoch: int) -> tuple[int, int]:
    """(epoch, index of the batch in it) of the step that follows `step` finished ones; both count from 0."""
    return divmod(step, per_epoch)


def draw(seed: int, epoch: int, row: int) -> int:
    """The 64-bit number from which every random choice about one row in one epoch is drawn."""
    digest = hashlib.sha256(f"draw\0{seed}\0{epoch}\0{row}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def shuffled(count: int, *key: object) -> Indices:
    """The numbers below `count` in an order drawn from `key`, whose parts are written with `str`.

    The order is the argsort of raw 64-bit Philox draws (Salmon et al., 2011) keyed by SHA-256. NumPy keeps the stream
    of a bit generator the same for ever (NEP 19) but not what `Generator.permutation` makes of it, so a run resumed
    under another NumPy would see other rows if it asked for that.
    """
    digest = hashlib.sha256("\0".join(str(part) for part in key).encode()).digest()
    draws = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return np.argsort(draws, kind="stable").astype(np.int64, copy=False)


def _cut(order: Indices, size: int) -> list[Indices]:
    return [order[start : start + size] for start in range(0, len(order), size)]
