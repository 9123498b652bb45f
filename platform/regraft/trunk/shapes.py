"""The shape of a tensor inside a model as a function of the shapes that go in, found from two passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from regraft.contracts import Batch

ROWS = "rows"
"""The size that counts the rows of a batch; the others are axes of its tensors: `input_ids.1`."""


@dataclass(frozen=True, slots=True)
class Dim:
    """One axis: `times` a size of the batch plus `plus`; a constant where `size` is None."""

    size: str | None
    times: int
    plus: int = 0

    def of(self, sizes: Mapping[str, int]) -> int:
        """How long the axis is in a batch of these sizes."""
        return self.plus + (self.times if self.size is None else self.times * sizes[self.size])


def sizes_of(batch: Batch) -> dict[str, int]:
    """The rows of a batch and the further axes of its tensors; `labels` are no input and do not count."""
    tensors = {name: value for name, value in batch.items() if name != "labels" and isinstance(value, Tensor)}
    sizes = {ROWS: next(len(value) for value in tensors.values())}
    for name, value in tensors.items():
        sizes |= {f"{name}.{axis}": length for axis, length in enumerate(value.shape) if axis}
    return sizes


def dims_of(
    first: Sequence[int], second: Sequence[int], before: Mapping[str, int], after: Mapping[str, int]
) -> tuple[Dim, ...] | None:
    """What the axes of one tensor follow, from its shapes in two batches of other sizes; None where nothing fits.

    A size explains an axis when it grew by the same factor, or by the same number.
    """
    if len(first) != len(second):
        return None
    found = [_dim(axis, one, two, before, after) for axis, (one, two) in enumerate(zip(first, second, strict=True))]
    return None if None in found else tuple(dim for dim in found if dim is not None)


def _dim(axis: int, one: int, two: int, before: Mapping[str, int], after: Mapping[str, int]) -> Dim | None:
    if one == two:
        return Dim(None, one)
    # The first axis holds the rows before anything else: two sizes that grew alike must not be taken for each other.
    names = sorted(before, key=lambda name: (name == ROWS) != (axis == 0))
    for name in names:
        was, now = before[name], after[name]
        if was != now and one % was == 0 and two == one // was * now:
            return Dim(name, one // was)
    for name in names:
        was, now = before[name], after[name]
        if name != ROWS and was != now and one - was == two - now:
            return Dim(name, 1, one - was)
    return None
