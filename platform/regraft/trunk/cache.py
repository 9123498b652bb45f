"""Cache of the trunk's outputs for the rows of a snapshot: each row is computed once, then read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from regraft.contracts import Batch, Example, all_windows, by_row, device_of, windowed, windows_of
from regraft.data.rows import Rows
from regraft.trunk.boundary import Boundary
from regraft.trunk.cut import Cut, NotCut, capture
from regraft.trunk.feature_store import Features, row_hashes
from regraft.trunk.shapes import sizes_of
from regraft.trunk.window_values import pack, unpack

BATCH = 32
"""Rows computed at once. It is fixed, since the last bits of a row's values depend on the rest of its batch."""
LARGE = 4096
"""A floating-point input with at least so many numbers is taken for an image, which no layer after the cut reads."""
MEMO_BYTES = 512 << 20
"""Memory for encoded rows. To read and tokenise a row again takes longer than the layers after the cut."""

Autocast = Callable[[], AbstractContextManager[Any]]
"""Opens the run's precision for the model's forward pass."""
RowsDone = Callable[[int, int], None]
"""Called with the number of rows done and of all rows."""


class CachedRows:
    """Locations of the cached values of one side's rows: in the feature store, or in this process."""

    def __init__(self, rows: Rows, images: Iterable[str] = ()) -> None:
        """Begin without values. Columns in `images` identify a row by the content of their files, not by path."""
        self.rows, self._images = rows, tuple(images)
        self.places: dict[str, NDArray[np.int64]] = {}
        """By boundary key, each row's place in the feature store; negative if it is not there."""
        self.held: dict[str, dict[int, Tensor]] = {}
        """By boundary key and row, the values in this process."""

    @cached_property
    def hashes(self) -> NDArray[np.bytes_]:
        """Keys of the rows in the feature store (rows,); computed only if values are kept there."""
        return row_hashes(self.rows, self._images)

    def missing(self, boundaries: Sequence[Boundary], features: Mapping[str, Features]) -> NDArray[np.bool_]:
        """Look up the values of all rows; return a mask (rows,) of the rows that lack any."""
        lacking = np.zeros(len(self.rows), dtype=bool)
        for boundary in boundaries:
            if boundary.key in features:
                self.places[boundary.key] = features[boundary.key].find(self.hashes)
                lacking |= self.places[boundary.key][:, 0] < 0
            else:
                held = self.held.setdefault(boundary.key, {})
                lacking |= np.array([index not in held for index in range(len(self.rows))], dtype=bool)
        return lacking


@dataclass
class Memo:
    """Encoded rows, which all models of one task can share: the task alone decides how a row is encoded."""

    examples: dict[tuple[int, int, bool], Example] = field(default_factory=dict)
    """By (side, row, encoded for training)."""
    bytes: int = 0

    def keep(self, key: tuple[int, int, bool], example: Example) -> None:
        """Keep a row unless MEMO_BYTES are used."""
        if self.bytes < MEMO_BYTES:
            self.examples[key] = dict(example)
            self.bytes += sum(_bytes(value) for value in example.values())


@dataclass
class Trunk:
    """The values of one cut for every row of both sides, in the feature store or in this process."""

    adapted: Adapted
    cut: Cut
    sides: tuple[CachedRows, ...]
    features: Mapping[str, Features]
    """By boundary key; a value without features is held in memory."""
    shape_only: bool = True
    """Whether images are replaced by empty ones of the same shape, since no layer after the cut reads their pixels."""
    memo: Memo = field(default_factory=Memo)

    def holds(self, rows: Rows) -> bool:
        """Return whether these are the rows of one of its sides."""
        return any(side.rows is rows for side in self.sides)

    def batch(self, rows: Rows, indices: Sequence[int], *, train: bool = False) -> Batch:
        """Return the rows as one batch, with the trunk's values under `kept`.

        A batch with images of several sizes gets no `kept`, since padding changes an image's outputs. It runs through
        the complete model.
        """
        number, side = next((number, side) for number, side in enumerate(self.sides) if side.rows is rows)
        task, context = self.adapted.task, self.adapted.context
        examples = [self._example(number, rows, index, train) for index in indices]
        if _has_several_image_sizes(examples):
            return task.collate([task.encode(rows.row(index), context, train=train) for index in indices], context)
        batch = task.collate(examples, context)
        rows_values = [{part.key: self.value(side, part, index) for part in self.cut.kept} for index in indices]
        batch["kept"] = self.cut.join(unpacked(self.adapted, self.cut, rows_values, examples), sizes_of(batch))
        return batch

    def bypass(self, batch: Batch) -> AbstractContextManager[None]:
        """While the context is open, make the model's forward pass on this batch begin at the cut."""
        return self.cut.bypassed(self.adapted.model, batch["kept"], sizes_of(batch))

    def value(self, side: CachedRows, boundary: Boundary, index: int) -> Tensor:
        """Return the stored value of one row."""
        if boundary.key in self.features:
            return self.features[boundary.key].read(side.places[boundary.key][index], boundary.dtype)
        return side.held[boundary.key][index]

    def _example(self, number: int, rows: Rows, index: int, train: bool) -> Example:
        known = self.memo.examples.get((number, index, train)) if self.shape_only else None
        if known is not None:
            return dict(known)
        example = self.adapted.task.encode(rows.row(index), self.adapted.context, train=train)
        if self.shape_only:
            example = without_pixels(example)
            self.memo.keep((number, index, train), example)
        return example


def fill(
    trunk: Trunk,
    scratch: Path,
    *,
    autocast: Autocast,
    share: tuple[int, int] = (0, 1),
    progress: RowsDone | None = None,
) -> int:
    """Compute and store the missing values of this rank's share of the rows; return the number of those rows.

    `share` is (rank, world). Batches are taken from all rows in the order of their lengths, so that values depend on
    the data alone. If only some rows of a batch are missing, they are computed together with those of other such
    batches. This happens after a run in which not every rank stored its share.
    """
    kept = trunk.cut.kept
    trunk.adapted.eval_mode()
    batches = [
        (side, batch) for side in trunk.sides for batch in _missing_batches(side, side.missing(kept, trunk.features))
    ]
    rank, world = share
    batches = batches[rank::world]
    total, done = sum(len(batch) for _, batch in batches), 0
    with ExitStack() as stack:
        writers = {key: stack.enter_context(found.writer(scratch)) for key, found in trunk.features.items()}
        for side, indices in batches:
            with autocast():
                values, _ = compute_rows(trunk.adapted, trunk.cut, side.rows, indices)
            for index, row in zip(indices, values, strict=True):
                for boundary in kept:
                    if boundary.key not in writers:
                        side.held[boundary.key][index] = row[boundary.key].clone()
                    elif side.places[boundary.key][index, 0] < 0:
                        writers[boundary.key].add(bytes(side.hashes[index]), row[boundary.key])
            done += len(indices)
            if progress is not None:
                progress(done, total)
    return total


def check_complete(trunk: Trunk) -> None:
    """Read the feature store again, and raise NotCut when a row of either side still lacks a value."""
    for features in trunk.features.values():
        features.refresh()
    if any(side.missing(trunk.cut.kept, trunk.features).any() for side in trunk.sides):
        raise NotCut("values that were written are not in the feature store")


def compute_rows(
    adapted: Adapted, cut: Cut, rows: Rows, indices: Sequence[int], *, seen: Callable[[str], None] | None = None
) -> tuple[list[dict[str, Tensor]], dict[str, int]]:
    """Compute these rows as one batch; return each row's values without padding, and the batch's sizes.

    Values of a row with several windows are packed: see `unpacked`. `seen` is called as by `capture`. Raises NotCut for
    images of several sizes.
    """
    task, context = adapted.task, adapted.context
    examples = [task.encode(rows.row(index), context, train=False) for index in indices]
    if _has_several_image_sizes(examples):
        raise NotCut(
            "the rows hold images of several sizes, and an image's values then depend on the others in its batch"
        )
    batch = task.collate([dict(example) for example in examples], context)
    device = device_of(adapted.model)
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    tensors = capture(adapted, moved, cut.kept, seen)
    windows = all_windows(examples)
    alike = len({tuple(_lengths(window)) for window in windows}) == 1
    own = [sizes_of(batch) | {"rows": 1}] * len(windows) if alike else [row_sizes(adapted, one) for one in windows]
    values = cut.split({key: value.cpu() for key, value in tensors.items()}, own)
    counts = [len(windows_of(example)) for example in examples]
    return [pack(row) for row in by_row(values, counts)], sizes_of(batch)


def unpacked(
    adapted: Adapted, cut: Cut, rows: Sequence[Mapping[str, Tensor]], examples: Sequence[Example]
) -> list[Mapping[str, Tensor]]:
    """Return the values of all windows of some rows, as `cut.join` takes them."""
    found: list[Mapping[str, Tensor]] = []
    for row, example in zip(rows, examples, strict=True):
        windows = windows_of(example)
        several = len(windows) > 1
        found += unpack(cut, row, [row_sizes(adapted, window) for window in windows]) if several else [row]
    return found


def row_sizes(adapted: Adapted, example: Example) -> dict[str, int]:
    """Return the sizes of one row, or of one window, in a batch of its own."""
    return sizes_of(adapted.task.collate([dict(example)], adapted.context))


def without_pixels(example: Example) -> Example:
    """Return the example with its images replaced by zeros of the same shape, which take no memory."""
    windows = windows_of(example)
    if len(windows) > 1:
        return windowed([without_pixels(window) for window in windows])
    return {name: value if name == "labels" else _shape_only(value) for name, value in example.items()}


def _shape_only(value: Any) -> Any:
    large = isinstance(value, Tensor) and value.is_floating_point() and value.numel() >= LARGE
    return torch.zeros((), dtype=value.dtype).expand(value.shape) if large else value


def _bytes(value: Any) -> int:
    """Estimate the memory of an example's value. A number in a list takes a pointer, and often an object too."""
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
            yield _length(value)


def _length(value: Any) -> Any:
    """Return the shape of a tensor, or the length of a list; of a list of lists, the lengths of all."""
    if isinstance(value, Tensor):
        return value.shape
    if not isinstance(value, list | tuple):
        return None
    return tuple(map(_length, value)) if value and isinstance(value[0], list | tuple) else len(value)


def _has_several_image_sizes(examples: Sequence[Example]) -> bool:
    return len({tuple(_image_shapes(window)) for window in all_windows(examples)}) > 1


def _image_shapes(example: Example) -> Iterator[tuple[int, ...]]:
    for name, value in sorted(example.items()):
        if name != "labels" and isinstance(value, Tensor) and value.ndim > 1:
            yield tuple(value.shape)


def _canonical_batches(side: CachedRows, wanted: NDArray[np.bool_]) -> Iterator[list[int]]:
    """Yield the batches that hold any wanted row. The division into batches depends on the data alone."""
    order = np.argsort(side.rows.lengths, kind="stable")
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        if wanted[batch].any():
            yield batch.tolist()


def _missing_batches(side: CachedRows, missing: NDArray[np.bool_]) -> Iterator[list[int]]:
    """Yield batches of the missing rows, each once, without any other row."""
    rest: list[int] = []
    for batch in _canonical_batches(side, missing):
        if missing[batch].all():
            yield batch
        else:
            rest += [index for index in batch if missing[index]]
    for start in range(0, len(rest), BATCH):
        yield rest[start : start + BATCH]
