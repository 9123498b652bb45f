"""The kept part of a model over the rows of a snapshot: what the loop asks instead of computing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch, Example, device_of
from regraft.data.rows import Rows
from regraft.trunk.boundary import Part
from regraft.trunk.cut import Cut, NotCut, capture
from regraft.trunk.feature_store import Features, row_hashes
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

    def __init__(self, rows: Rows, images: Sequence[str] = ()) -> None:
        self.rows, self._images = rows, tuple(images)
        self.places: dict[str, NDArray[np.int64]] = {}
        self.held: dict[str, dict[int, Tensor]] = {}

    @cached_property
    def hashes(self) -> NDArray[np.bytes_]:
        """(rows,) what features are known by in the store: asked for only where they are kept there."""
        return row_hashes(self.rows, self._images)

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
class Memo:
    """Encoded rows: of every model of one task, since it alone decides how a row is read."""

    examples: dict[tuple[int, int, bool], Example] = field(default_factory=dict)
    """By side, row, and whether to train."""
    bytes: int = 0

    def keep(self, key: tuple[int, int, bool], example: Example) -> None:
        """Remember a row, while there is room."""
        if self.bytes < MEMO_BYTES:
            self.examples[key] = dict(example)
            self.bytes += sum(_bytes(value) for value in example.values())


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
    memo: Memo = field(default_factory=Memo)

    def holds(self, rows: Rows) -> bool:
        """Whether these are rows that it has the values of."""
        return any(side.rows is rows for side in self.sides)

    def batch(self, rows: Rows, indices: Sequence[int], *, train: bool = False) -> Batch:
        """The rows as one batch, with what the trunk gave under `kept`; without it, to be computed whole, where images
        are of several sizes: one that is padded is another to the model."""
        number, side = next((number, side) for number, side in enumerate(self.sides) if side.rows is rows)
        task, context = self.adapted.task, self.adapted.context
        examples = [self._example(number, rows, index, train) for index in indices]
        if len({tuple(_shapes(example)) for example in examples}) > 1:
            return task.collate([task.encode(rows.row(index), context, train=train) for index in indices], context)
        batch = task.collate(examples, context)
        values = [{part.key: self.value(side, part, index) for part in self.cut.kept} for index in indices]
        batch["kept"] = self.cut.join(values, sizes_of(batch))
        return batch

    def bypass(self, batch: Batch) -> AbstractContextManager[None]:
        """Inside, the model's forward pass on this batch begins at the cut."""
        return self.cut.standing_in(self.adapted.model, batch["kept"], sizes_of(batch))

    def value(self, side: Kept, part: Part, index: int) -> Tensor:
        """What was kept of one row."""
        if part.key in self.features:
            return self.features[part.key].read(side.places[part.key][index], part.dtype)
        return side.held[part.key][index]

    def _example(self, number: int, rows: Rows, index: int, train: bool) -> Example:
        known = self.memo.examples.get((number, index, train)) if self.hollow else None
        if known is not None:
            return dict(known)
        example = self.adapted.task.encode(rows.row(index), self.adapted.context, train=train)
        if self.hollow:
            example = hollowed(example)
            self.memo.keep((number, index, train), example)
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

    Batches are cut from all rows in the order of their lengths, so that values depend on the data alone: where all rows
    of such a batch are missing, as they are in a run that goes on after another rank alone had kept its share. Of the
    others only the missing rows are computed, among themselves.
    """
    parts = trunk.cut.kept
    trunk.adapted.eval_mode()
    work = [(side, indices) for side in trunk.sides for indices in _lacking(side, side.missing(parts, trunk.features))][
        rank::world
    ]
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
                        if side.places[part.key][index, 0] >= 0:
                            continue
                        writers[part.key].add(bytes(side.hashes[index]), row[part.key])
                    else:
                        side.held[part.key][index] = row[part.key].clone()
            done += len(indices)
            if told is not None:
                told(done, total)
    return total


def astray(trunk: Trunk, autocast: Callable[[], AbstractContextManager[Any]]) -> float:
    """How far what the store holds is from what the model gives now, in one batch of which it holds any row: the
    largest difference over the largest value. 0 where it holds nothing.

    A trunk-id names what is known to decide the values; this notices the rest (a task's own code, a patched library).
    """
    parts = trunk.cut.kept
    trunk.adapted.eval_mode()
    for side in trunk.sides:
        held = ~side.missing(parts, trunk.features)
        indices = next(_canonical(side, held), None)
        if indices is None:
            continue
        with autocast():
            values, _ = computed(trunk.adapted, trunk.cut, side.rows, indices)
        pairs = [
            (trunk.value(side, part, index), row[part.key])
            for index, row in zip(indices, values, strict=True)
            for part in parts
            if held[index]
        ]
        return max((_apart(one, two) for one, two in pairs), default=0.0)
    return 0.0


def _apart(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    largest = max(1e-12, float(two.double().abs().max()))
    return float((one.double() - two.double()).abs().max()) / largest


def computed(
    adapted: Adapted, cut: Cut, rows: Rows, indices: Sequence[int], seen: Callable[[str], None] | None = None
) -> tuple[list[dict[str, Tensor]], dict[str, int]]:
    """The kept values of some rows, each without padding, computed as one batch, and that batch's sizes; `seen` as in
    `capture`."""
    task, context = adapted.task, adapted.context
    examples = [task.encode(rows.row(index), context, train=False) for index in indices]
    if len({tuple(_shapes(example)) for example in examples}) > 1:
        raise NotCut("the rows hold images of several sizes, and what is kept of one depends on those beside it")
    batch = task.collate([dict(example) for example in examples], context)
    device = device_of(adapted.model)
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    boundary = capture(adapted, moved, cut.kept, seen)
    alike = len({tuple(_lengths(example)) for example in examples}) == 1
    own = [sizes_of(batch) | {"rows": 1}] * len(examples) if alike else [alone(adapted, item) for item in examples]
    return cut.split({key: value.cpu() for key, value in boundary.items()}, own), sizes_of(batch)


def alone(adapted: Adapted, example: Example) -> dict[str, int]:
    """The sizes of one row in a batch of its own."""
    return sizes_of(adapted.task.collate([dict(example)], adapted.context))


def kept_rows(rows: Rows, images: Sequence[str]) -> Kept:
    """One side, before anything of it is known."""
    return Kept(rows, images)


def hollowed(example: Example) -> Example:
    """The example with its images as shapes only: a view of one zero."""
    return {name: value if name == "labels" else _hollow(value) for name, value in example.items()}


def _hollow(value: Any) -> Any:
    large = isinstance(value, Tensor) and value.is_floating_point() and value.numel() >= LARGE
    return torch.zeros((), dtype=value.dtype).expand(value.shape) if large else value


def _bytes(value: Any) -> int:
    """About what a value of an example takes in memory: a number in a list takes a pointer, and often itself too."""
    if isinstance(value, Tensor):
        return 256 + (value.untyped_storage().nbytes() if value.numel() else 0)
    if isinstance(value, Mapping):
        return 256 + sum(_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return 64 + sum(8 + (_bytes(item) if not isinstance(item, int) else 28) for item in value)
    return 64 + len(value) if isinstance(value, str | bytes) else 64


def _lengths(example: Example) -> Iterator[Any]:
    for name, value in sorted(example.items()):
        if name != "labels":
            yield value.shape if isinstance(value, Tensor) else len(value) if isinstance(value, list | tuple) else None


def _shapes(example: Example) -> Iterator[tuple[int, ...]]:
    """The shapes of a row's images."""
    for name, value in sorted(example.items()):
        if name != "labels" and isinstance(value, Tensor) and value.ndim > 1:
            yield tuple(value.shape)


def _canonical(side: Kept, missing: NDArray[np.bool_]) -> Iterator[list[int]]:
    order = np.argsort(side.rows.lengths, kind="stable")
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        if missing[batch].any():
            yield batch.tolist()


def _lacking(side: Kept, missing: NDArray[np.bool_]) -> Iterator[list[int]]:
    """Batches that hold each missing row once, and no other."""
    rest: list[int] = []
    for batch in _canonical(side, missing):
        if missing[batch].all():
            yield batch
        else:
            rest += [index for index in batch if missing[index]]
    for start in range(0, len(rest), BATCH):
        yield rest[start : start + BATCH]
