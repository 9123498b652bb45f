"""Order of the rows: which rows each optimizer step sees, the same on every machine and after every crash.

Everything here is a pure function of its arguments. A run that resumes at step N, or continues with another number of
workers, computes the same order; no state of a random generator is saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

MEGA = 50
"""Global batches that bucketing sorts together: enough for batches of similar lengths, few enough to stay random."""


def batches(
    seed: int, epoch: int, rows: int | NDArray[np.integer], batch_size: int, *, bucketing: bool = False
) -> list[Indices]:
    """Return the global batches of an epoch: row indices, each row exactly once.

    `rows` is a number of rows, or their lengths, (rows,), which bucketing needs: without them it is left out. Bucketing
    puts rows of similar lengths into one batch: the shuffled rows are cut into pieces of `MEGA` batches, each piece is
    sorted by length and cut, and the batches are shuffled. All batches have `batch_size` rows except one, which has the
    remainder: the last one, or with bucketing any.
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


def target_batches(
    seed: int, epoch: int, lengths: NDArray[np.integer], batch_size: int, *, bucketing: bool = False
) -> list[Indices]:
    """Return the global batches of an epoch of target rows: each row exactly once, in batches of nearly equal size.

    As many batches as `batches` would make, without a small remainder: terms that compare distributions need rows. The
    order is independent of that of the training rows. `lengths` (rows,) are used if `bucketing`.
    """
    count = batches_per_epoch(len(lengths), batch_size)
    order = shuffled(len(lengths), "target rows", seed, epoch)
    if bucketing:
        pieces = np.array_split(order, -(-count // MEGA))
        order = np.concatenate([piece[np.argsort(lengths[piece], kind="stable")] for piece in pieces])
    parts = np.array_split(order, count)
    return [parts[number] for number in shuffled(count, "target batches", seed, epoch)]


def balanced_batches(seed: int, epoch: int, labels: NDArray[np.integer], batch_size: int) -> list[Indices]:
    """Return as many global batches as `batches` makes, each with as many rows of each class, and two at least.

    A class with fewer rows than it needs has them several times. No class has more of a batch than the largest one has
    rows, so that few rows make smaller batches. Where a batch cannot hold two rows of every class, it holds some of
    them, and the batches take turns. `labels` (rows,) are the classes of the rows.
    """
    classes = [np.flatnonzero(labels == label).astype(np.int64) for label in np.unique(labels)]
    count, held = batches_per_epoch(len(labels), batch_size), min(len(classes), max(2, batch_size // 2))
    turns = np.concatenate([shuffled(len(classes), "classes", seed, epoch, turn) for turn in range(count)])
    chosen = [np.unique(turns[number * held : (number + 1) * held]) for number in range(count)]
    each = max(2, min(batch_size // held, max(map(len, classes))))
    used = [0] * len(classes)
    found = []
    for number in range(count):
        parts = []
        for label in chosen[number].tolist():
            rows = classes[label]
            rounds = range(used[label] // len(rows), (used[label] + each - 1) // len(rows) + 1)
            order = np.concatenate([rows[shuffled(len(rows), "rows", label, seed, epoch, turn)] for turn in rounds])
            start = used[label] % len(rows)
            parts.append(order[start : start + each])
            used[label] += each
        found.append(np.concatenate(parts))
    return found


def episode(seed: int, step: int, classes: Sequence[Indices], *, way: int, rows_each: int) -> Indices:
    """Return the rows of one step: `rows_each` random rows of each of `way` random classes, one class after another.

    `classes` are the row indices of each class, at least `rows_each` of them. Steps are drawn independently of one
    another: within an epoch a row may come several times, or not at all.
    """
    if way > len(classes):
        raise ValueError(f"way is {way}; there are {len(classes)} classes")
    parts = []
    for number in shuffled(len(classes), "classes of an episode", seed, step)[:way].tolist():
        rows = classes[number]
        if len(rows) < rows_each:
            raise ValueError(f"class {number} has {len(rows)} rows; an episode takes {rows_each}")
        parts.append(rows[shuffled(len(rows), "rows of an episode", seed, step, number)[:rows_each]])
    return np.concatenate(parts)


def share(batch: Indices, rank: int, world: int, accumulation: int = 1) -> list[Indices]:
    """Return the micro-batches of one rank: always `accumulation` of them, nearly equal, some empty in a short batch.

    Over all ranks, they contain the batch exactly once. A rank takes every world-th row, so that a batch sorted by
    length costs every rank the same. The same number on every rank keeps collective operations in step.
    """
    if not 0 <= rank < world or accumulation < 1:
        raise ValueError(f"rank {rank} of {world} with accumulation {accumulation} does not exist")
    return list(np.array_split(batch[rank::world], accumulation))


def batches_per_epoch(rows: int, batch_size: int) -> int:
    """Return the number of global batches of an epoch."""
    return -(-rows // batch_size)


def total_steps(rows: int, batch_size: int, epochs: int, steps: int | None = None) -> int:
    """Return the optimizer steps of a complete run: `steps` when given, else those of `epochs`."""
    return steps if steps is not None else epochs * batches_per_epoch(rows, batch_size)


def position(step: int, per_epoch: int) -> tuple[int, int]:
    """Return (epoch, index of the batch in it) of the step after `step` finished ones; both count from 0."""
    return divmod(step, per_epoch)


def draw(seed: int, epoch: int, row: int) -> int:
    """Return the 64-bit seed of every random choice about one row in one epoch."""
    digest = hashlib.sha256(f"draw\0{seed}\0{epoch}\0{row}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def shuffled(count: int, *key: object) -> Indices:
    """Return the numbers below `count` in a pseudo-random order that depends on `key`, its parts written with `str`.

    The order is the argsort of raw 64-bit Philox numbers (Salmon et al., 2011) keyed by SHA-256. NumPy guarantees the
    stream of a bit generator (NEP 19), but not the result of `Generator.permutation`: with that, a run resumed under
    another version of NumPy could see other rows.
    """
    digest = hashlib.sha256("\0".join(str(part) for part in key).encode()).digest()
    draws = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return np.argsort(draws, kind="stable").astype(np.int64, copy=False)


def _cut(order: Indices, size: int) -> list[Indices]:
    return [order[start : start + size] for start in range(0, len(order), size)]
