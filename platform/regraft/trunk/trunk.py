"""The kept part of a model over the rows of a snapshot: what the loop asks instead of computing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.bases.adapt import Adapted
from regraft.contracts import Batch, Example, device_of
from regraft.data.rows import Rows
from regraft.trunk.cut import Cut, Part, capture
from regraft.trunk.features import Features, row_hashes
from regraft.trunk.shapes import sizes_of

BATCH = 32
"""Rows that are computed at once. Fixed: the last bits of a row's values depend on what else is in the batch."""
LARGE = 4096
"""Numbers in an input from which on it is an image, that nobody reads behind the cut."""
MEMO_BYTES = 512 << 20
"""Encoded rows that are remembered: reading and tokenising again would cost more than the suffix does."""

Told = Callable[[int, int], None]
"""Rows done, rows in all."""


class Kept:
    """Where the values of one side's rows are."""

    def __init__(self, rows: Rows, hashes: NDArray[np.bytes_]) -> None:
        self.rows, self.hashes = rows, hashes
        self.places: dict[str, NDArray[np.int64]] = {}
        self.held: dict[str, dict[int, Tensor]] = {}

    def missing(self, parts: Sequence[Part], features: Mapping[str, Features]) -> NDArray[np.bool_]:
        """(rows,) whether a row lacks the values of any part, after looking for them."""
        lacking = np.zeros(len(self.rows), dtype=bool)
        for part in parts:
            if part.key in features:
                self.places[part.key] = features[part.key].find(self.hashes)
                lacking |= self.places[part.key][:, 0] < 0
            else:
                held = self.held.setdefault(part.key, {})
                lacking |= np.array([index not in held for index in range(len(self.rows))], dtype=bool)
        return lacking


@dataclass
class Trunk:
    """One cut's values for every row of the sides that it was given, in the store's features or in this process."""

    adapted: Adapted
    cut: Cut
    sides: tuple[Kept, ...]
    features: Mapping[str, Features]
    """By part; empty where values are held in memory."""
    hollow: bool = True
    """Whether the model may be given images without pixels, because nothing behind the cut reads them."""

    def __post_init__(self) -> None:
        self._memo: dict[tuple[int, int], Example] = {}
        self._memo_bytes = 0

    def holds(self, rows: Rows) -> bool:
        """Whether these are rows that it has the values of."""
        return any(side.rows is rows for side in self.sides)

    def batch(self, rows: Rows, indices: Sequence[int]) -> Batch:
        """The rows as one batch, with what the trunk gave under `kept`."""
        number, side = next((number, side) for number, side in enumerate(self.sides) if side.rows is rows)
        examples = [self._example(number, rows, index) for index in indices]
        batch = self.adapted.task.collate(examples, self.adapted.context)
        values = [{part.key: self._value(side, part, index) for part in self.cut.kept} for index in indices]
        batch["kept"] = self.cut.join(values, sizes_of(batch))
        return batch

    def standing_in(self, batch: Batch) -> AbstractContextManager[None]:
        """Inside, the model's forward pass on this batch begins at the cut."""
        return self.cut.standing_in(self.adapted.model, batch["kept"], sizes_of(batch))

    def _value(self, side: Kept, part: Part, index: int) -> Tensor:
        if part.key in self.features:
            return self.features[part.key].read(side.places[part.key][index], part.dtype)
        return side.held[part.key][index]

    def _example(self, number: int, rows: Rows, index: int) -> Example:
        known = self._memo.get((number, index))
        if known is not None:
            return dict(known)
        example = self.adapted.task.encode(rows.row(index), self.adapted.context, train=False)
        if self.hollow:
            example = hollowed(example)
            if self._memo_bytes < MEMO_BYTES:
                self._memo[number, index] = dict(example)
                self._memo_bytes += sum(_bytes(value) for value in example.values())
        return example


def fill(
    trunk: Trunk,
    scratch: Path,
    *,
    rank: int = 0,
    world: int = 1,
    autocast: Callable[[], AbstractContextManager[Any]],
    told: Told | None = None,
) -> int:
    """Compute and keep what is missing of this rank's share of the rows; how many rows that were.

    Batches are cut from all rows in the order of their lengths, so that a row's values do not depend on which others
    were there already.
    """
    parts = trunk.cut.kept
    trunk.adapted.eval_mode()
    work = [
        (side, indices) for side in trunk.sides for indices in _canonical(side, side.missing(parts, trunk.features))
    ][rank::world]
    total = sum(len(indices) for _, indices in work)
    done = 0
    with ExitStack() as stack:
        writers = {key: stack.enter_context(found.writer(scratch)) for key, found in trunk.features.items()}
        for side, indices in work:
            with autocast():
                values, _ = computed(trunk.adapted, trunk.cut, side.rows, indices)
            for index, row in zip(indices, values, strict=True):
                for part in parts:
                    if part.key in writers:
                        writers[part.key].add(bytes(side.hashes[index]), row[part.key])
                    else:
                        side.held[part.key][index] = row[part.key].clone()
            done += len(indices)
            if told is not None:
                told(done, total)
    return total


def computed(
    adapted: Adapted, cut: Cut, rows: Rows, indices: Sequence[int]
) -> tuple[list[dict[str, Tensor]], dict[str, int]]:
    """The kept values of some rows, each without padding, computed as one batch, and that batch's sizes."""
    task, context = adapted.task, adapted.context
    examples = [task.encode(rows.row(index), context, train=False) for index in indices]
    batch = task.collate([dict(example) for example in examples], context)
    device = device_of(adapted.model)
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    boundary = capture(adapted, moved, cut.kept)
    alike = len({tuple(_lengths(example)) for example in examples}) == 1
    own = [sizes_of(batch) | {"rows": 1}] * len(examples) if alike else [alone(adapted, item) for item in examples]
    return cut.split({key: value.cpu() for key, value in boundary.items()}, own), sizes_of(batch)


def alone(adapted: Adapted, example: Example) -> dict[str, int]:
    """The sizes of one row in a batch of its own."""
    return sizes_of(adapted.task.collate([dict(example)], adapted.context))


def kept_rows(rows: Rows, images: Sequence[str]) -> Kept:
    """One side, before anything of it is known."""
    return Kept(rows, row_hashes(rows, images))


def hollowed(example: Example) -> Example:
    """The example with its images as shapes only: a view of one zero."""
    return {name: value if name == "labels" else _hollow(value) for name, value in example.items()}


def _hollow(value: Any) -> Any:
    large = isinstance(value, Tensor) and value.numel() >= LARGE
    return torch.zeros((), dtype=value.dtype).expand(value.shape) if large else value


def _bytes(value: Any) -> int:
    return 8 * len(value) if isinstance(value, list | tuple) else 256


def _lengths(example: Example) -> Iterator[Any]:
    for name, value in sorted(example.items()):
        if name != "labels":
            yield value.shape if isinstance(value, Tensor) else len(value) if isinstance(value, list | tuple) else None


def _canonical(side: Kept, missing: NDArray[np.bool_]) -> Iterator[list[int]]:
    order = np.argsort(side.rows.lengths, kind="stable")
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        if missing[batch].any():
            yield batch.tolist()
