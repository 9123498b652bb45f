"""One value that stands between the two halves of a cut model: its place, its shape in a batch, a row's share of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from regraft.trunk.shapes import Dim

GIVEN = -1
"""As a part's place: not what the module returns, but the first value that it is called with."""


@dataclass(frozen=True, slots=True)
class Part:
    """One value that a finished module returns, and what stands in for it."""

    module: str
    place: int
    """Which of the values that the module returns, or GIVEN."""
    role: Literal["constant", "hollow", "kept", "shared"]
    """constant: the same in every batch, no tensor. hollow: never read, only its shape. kept: needed, one slice a row.
    shared: needed, and the same for all rows."""
    value: Any = None
    dims: tuple[Dim, ...] = ()
    dtype: torch.dtype = torch.float32
    first_only: bool = False
    """Only the first entry of axis 1 is read (the class token)."""
    order: tuple[int, ...] = ()
    """Its axes as they lie in memory, the slowest first: dropout draws in that order, and sums are taken in it."""

    @property
    def key(self) -> str:
        """By which its values are known: module, place, and whether it is the first entry alone."""
        return f"{self.module}:{self.place}{':first' if self.first_only else ''}"

    @property
    def width(self) -> int:
        """Numbers a row, where an axis that follows the batch's sizes counts 64."""
        count = 1
        for axis, dim in enumerate(self.dims):
            count *= dim.times if axis == 0 else 1 if axis == 1 and self.first_only else dim.of(_Usual())
        return count

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Its shape in a batch of these sizes."""
        return tuple(dim.of(sizes) for dim in self.dims)


class _Usual(dict[str, int]):
    def __missing__(self, _: str) -> int:
        return 64


def is_kept(part: Part) -> bool:
    return part.role == "kept"


def by_row(part: Part, values: Tensor, rows: int) -> Tensor:
    """(rows, ...): a module may fold parts of a row into the first axis, as windows of an image are."""
    return values.reshape(rows, part.dims[0].times, *values.shape[1:]) if part.dims[0].times > 1 else values


def inside(part: Part, sizes: Mapping[str, int]) -> tuple[slice, ...]:
    """Which of a row's values are its own."""
    folded = (slice(None),) if part.dims[0].times > 1 else ()
    if part.first_only:
        return (*folded, slice(None))
    return (*folded, *(slice(dim.of(sizes)) for dim in part.dims[1:]))


def joined(part: Part, rows: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
    inner = [dim.of(sizes) for dim in part.dims[1:]]
    if part.first_only:
        inner[0] = 1
    folded = [part.dims[0].times] if part.dims[0].times > 1 else []
    if all(list(row.shape) == [*folded, *inner] for row in rows):
        return laid_out(torch.stack(tuple(rows)).reshape(-1, *inner), part.order)
    whole = rows[0].new_zeros((len(rows), *folded, *inner))
    for place, row in zip(whole, rows, strict=True):
        place[tuple(slice(length) for length in row.shape)] = row
    return laid_out(whole.reshape(-1, *inner), part.order)


def order_of(tensor: Tensor) -> tuple[int, ...]:
    strides = tuple(tensor.stride())
    return tuple(sorted(range(tensor.ndim), key=lambda axis: (-strides[axis], axis)))


def laid_out(values: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same values, lying in memory as the model's own do."""
    if order == tuple(range(values.ndim)):
        return values
    back = [order.index(axis) for axis in range(values.ndim)]
    return values.permute(order).contiguous().permute(back)


def widened(part: Part, values: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """The first entry alone in its place, before entries that nobody reads."""
    if not part.first_only:
        return values
    wide = values.new_zeros(part.shape(sizes))
    wide[:, :1] = values
    return wide
