"""One value that crosses a cut: which module returns it, its shape in a batch, and one row's share of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from regraft.trunk.shapes import Dim

GIVEN = -1
"""A `Boundary.place`: the first positional argument of the module, in place of a value that it returns."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """One value that a frozen module returns, and the way in which a bypassed module supplies it."""

    module: str
    place: int
    """Index among the values that the module returns, flattened, or GIVEN."""
    role: Literal["constant", "shape_only", "kept", "shared"]
    """constant: no tensor, equal in every batch. shape_only: only its shape is read, never its numbers.
    kept: needed, one slice a row. shared: needed, and equal for all rows."""
    value: Any = None
    """The value of a constant."""
    dims: tuple[Dim, ...] = ()
    dtype: torch.dtype = torch.float32
    first_only: bool = False
    """Whether only the first entry of axis 1 is read (the class token)."""
    order: tuple[int, ...] = ()
    """Axes by memory stride, slowest first. Dropout draws and sums are taken in this order."""

    @property
    def key(self) -> str:
        """The key of its values: module, place, and whether only the first entry is read."""
        return f"{self.module}:{self.place}{':first' if self.first_only else ''}"

    @property
    def width(self) -> int:
        """Numbers per row, counting an axis that follows the batch's sizes as 64."""
        count = 1
        for axis, dim in enumerate(self.dims):
            count *= dim.times if axis == 0 else 1 if axis == 1 and self.first_only else dim.of(_Usual())
        return count

    @property
    def folds(self) -> int:
        """Slices of axis 0 that belong to one row: several if a module folds windows of an image into that axis."""
        return self.dims[0].times

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return its shape in a batch of these sizes."""
        return tuple(dim.of(sizes) for dim in self.dims)

    def by_row(self, values: Tensor, rows: int) -> Tensor:
        """Return a batch's values as (rows, ...), with an axis for the folds where there are several."""
        return values.reshape(rows, self.folds, *values.shape[1:]) if self.folds > 1 else values

    def without_padding(self, sizes: Mapping[str, int]) -> tuple[slice, ...]:
        """Return the slices that cut the padding off one row of these sizes."""
        folded = (slice(None),) if self.folds > 1 else ()
        if self.first_only:
            return (*folded, slice(None))
        return (*folded, *(slice(dim.of(sizes)) for dim in self.dims[1:]))

    def row_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of one row's values in a batch of these sizes."""
        inner = [dim.of(sizes) for dim in self.dims[1:]]
        if self.first_only:
            inner[0] = 1
        return (*([self.folds] if self.folds > 1 else []), *inner)

    def join(self, rows: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """Return the values of single rows as those of one batch of these sizes, padded with zeros."""
        shape = self.row_shape(sizes)
        inner = shape[1:] if self.folds > 1 else shape
        if all(tuple(row.shape) == shape for row in rows):
            return laid_out(torch.stack(tuple(rows)).reshape(-1, *inner), self.order)
        padded = rows[0].new_zeros((len(rows), *shape))
        for place, row in zip(padded, rows, strict=True):
            place[tuple(slice(length) for length in row.shape)] = row
        return laid_out(padded.reshape(-1, *inner), self.order)

    def widen(self, values: Tensor, sizes: Mapping[str, int]) -> Tensor:
        """Return the values in the module's full shape: entries that are not read are zero."""
        if not self.first_only:
            return values
        wide = values.new_zeros(self.shape(sizes))
        wide[:, :1] = values
        return wide


class _Usual(dict[str, int]):
    def __missing__(self, _: str) -> int:
        return 64


def order_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the tensor's axes by memory stride, slowest first."""
    strides = tuple(tensor.stride())
    return tuple(sorted(range(tensor.ndim), key=lambda axis: (-strides[axis], axis)))


def laid_out(values: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return the same values in the memory order of the model's own tensors."""
    if order == tuple(range(values.ndim)):
        return values
    back = [order.index(axis) for axis in range(values.ndim)]
    return values.permute(order).contiguous().permute(back)
