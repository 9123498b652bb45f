"""Shapes of tensors inside a model as functions of its input shapes, inferred from two passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from regraft.contracts import Batch

ROWS = "rows"
"""Name of the size that counts a batch's rows; the other sizes are axes of its tensors: `input_ids.1`."""


@dataclass(frozen=True, slots=True)
class Dim:
    """Length of one axis: `times` a size of the batch plus `plus`; a constant where `size` is None."""

    size: str | None
    times: int
    plus: int = 0

    def of(self, sizes: Mapping[str, int]) -> int:
        """Return the length of the axis in a batch of these sizes."""
        return self.plus + (self.times if self.size is None else self.times * sizes[self.size])


def sizes_of(batch: Batch) -> dict[str, int]:
    """Return the rows of a batch and the further axes of its tensors; `labels` are not an input and do not count."""
    tensors = {name: value for name, value in batch.items() if name != "labels" and isinstance(value, Tensor)}
    sizes = {ROWS: next(len(value) for value in tensors.values())}
    for name, value in tensors.items():
        sizes |= {f"{name}.{axis}": length for axis, length in enumerate(value.shape) if axis}
    return sizes


def dims_of(
    first: Sequence[int], second: Sequence[int], before: Mapping[str, int], after: Mapping[str, int]
) -> tuple[Dim, ...] | None:
    """Infer the axes of one tensor from its shapes in two batches of different sizes; None where no size fits.

    A size explains an axis if both grew by the same factor, or by the same number.
    """
    if len(first) != len(second):
        return None
    found = [_dim(axis, lengths, before, after) for axis, lengths in enumerate(zip(first, second, strict=True))]
    return None if None in found else tuple(dim for dim in found if dim is not None)


def _dim(axis: int, lengths: tuple[int, int], before: Mapping[str, int], after: Mapping[str, int]) -> Dim | None:
    one, two = lengths
    if one == two:
        return Dim(None, one)
    grown = {name: (was, after[name]) for name, was in sorted(before.items()) if was != after[name]}
    rows = [Dim(ROWS, one // was) for was, now in [grown.pop(ROWS, (0, 0))] if was and _grew_alike(one, two, was, now)]
    # Axis 0 follows the rows if they fit: another size that grew alike must not be taken for them.
    if axis == 0 and rows:
        return rows[0]
    # Sizes that are equal in both batches (of ids and their mask) count as one; other candidates are ambiguous.
    found: dict[tuple[int, int], Dim] = {}
    for name, (was, now) in grown.items():
        if _grew_alike(one, two, was, now):
            found.setdefault((was, now), Dim(name, one // was))
        elif one - was == two - now:
            found.setdefault((was, now), Dim(name, 1, one - was))
    if found:
        return next(iter(found.values())) if len(found) == 1 else None
    return rows[0] if rows else None


def _grew_alike(one: int, two: int, was: int, now: int) -> bool:
    return one % was == 0 and two == one // was * now


def distinguishes(before: Mapping[str, int], after: Mapping[str, int], samples: Sequence[Mapping[str, int]]) -> bool:
    """Return whether two probe batches have a distinct value for every size that varies between samples, rows included.

    Otherwise a target could be taken to be as long as its text, or a varying length to be constant.
    """
    if before.keys() != after.keys():
        return False
    names = [name for name in before if name != ROWS]
    for name in names:
        # A length that grew in proportion to the rows could be taken for their number.
        if before[name] != after[name] and after[name] * before[ROWS] == before[name] * after[ROWS]:
            return False
        if before[name] == after[name] and any(sample[name] != before[name] for sample in samples):
            return False
        for other in names:
            differ = any(sample[name] != sample[other] for sample in samples)
            if differ and before[name] != after[name] and before[other] != after[other]:
                ratio = after[name] * before[other] == after[other] * before[name]
                if ratio or after[name] - before[name] == after[other] - before[other]:
                    return False
    return True


@dataclass(frozen=True)
class Sizes:
    """Assumptions about the sizes of all rows, inferred from two batches and checked for every row."""

    fixed: Mapping[str, int] = field(default_factory=dict)
    """Sizes that are equal for all rows, such as those of images."""
    same: Mapping[str, str] = field(default_factory=dict)
    """Sizes that equal another one, such as the length of a mask and that of its ids."""

    @staticmethod
    def of(before: Mapping[str, int], after: Mapping[str, int]) -> Sizes:
        """Infer the assumptions from the sizes of two batches."""
        names = sorted(name for name in before if name != ROWS)
        first = {(before[name], after[name]): name for name in reversed(names)}
        fixed = {name: before[name] for name in names if before[name] == after[name]}
        return Sizes(fixed, {name: first[before[name], after[name]] for name in names if name not in fixed})

    def broken_by(self, row: Mapping[str, int]) -> str:
        """Return how a row of these sizes breaks an assumption, in words; empty if it breaks none."""
        for name, size in self.fixed.items():
            if row.get(name) != size:
                return f"rows are of several sizes ({name}: {size} and {row.get(name)}), which look the same to it"
        for name, other in self.same.items():
            if row[name] != row[other]:
                return f"{name} and {other} are alike in some rows and not in others"
        return ""
