"""The decision to keep the trunk's outputs or to compute them again, from a measurement on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Example
from regraft.data.rows import Rows
from regraft.trunk.cache import BATCH, Autocast, compute_rows, unpacked, without_pixels
from regraft.trunk.cut import Cut, union
from regraft.units import bytes_text

Where = Literal["memory", "disk", "recompute"]

WORTH = 0.97
"""Reading must cost less than this share of computing, or keeping gains nothing."""
DISK_S_PER_BYTE = 1 / 200e6
"""A slow disk. Values that are read again soon come from the page cache, but that is not certain."""


@dataclass(frozen=True, slots=True)
class CheckedCut:
    """A verified cut, and whether the layers after it use only the shapes of images, not their pixels."""

    cut: Cut
    shape_only: bool
    """If so, rows are encoded once and held in memory."""


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """The limits of a plan."""

    budget: int
    """The limit of bytes that the user set."""
    free: Mapping[Where, int]
    """Places that may hold the values, with the bytes available there."""
    passes: float
    """How often each row is used."""
    asked: bool = False
    """Whether the user named the place: the cost of reading then does not count."""


@dataclass(frozen=True, slots=True)
class CachePlacement:
    """The place of the values, and the measurements that decided it. A resumed run uses it again."""

    where: Where
    why: str
    bytes: int
    """Size of the values of all rows."""
    compute_s: float
    """Seconds to compute the trunk for one row."""
    read_s: float
    """Seconds to read one row's values and lay them into a batch."""

    def document(self) -> dict[str, Any]:
        """Return the plan as JSON-able data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CutCosts:
    """Measured costs of one cut, per row."""

    compute_s: float
    """Seconds to compute one row up to the cut."""
    join_s: float
    """Seconds to lay one row's values into a batch, from memory."""
    row_bytes: Mapping[str, float]
    """Bytes of each value of one row, by boundary key."""


def measure(adapted: Adapted, cuts: Sequence[CheckedCut], rows: Rows, autocast: Autocast) -> list[CutCosts]:
    """Measure the costs of each cut with one batch, computed through all cuts in one pass."""
    indices = list(range(min(BATCH, len(rows))))
    everything = union(checked.cut for checked in cuts)
    at: dict[str, float] = {}
    adapted.eval_mode()
    with autocast():
        compute_rows(adapted, everything, rows, indices[:2])  # the first pass has costs that occur once a process
        started = time.perf_counter()
        values, sizes = compute_rows(
            adapted, everything, rows, indices, seen=lambda key: at.update({key: time.perf_counter()})
        )
    costs = []
    for checked in cuts:
        kept = checked.cut.kept
        row_bytes = {boundary.key: sum(_bytes(row[boundary.key]) for row in values) / len(values) for boundary in kept}
        compute_s = (max(at[boundary.key] for boundary in kept) - started) / len(indices)
        join_s = _join_seconds(adapted, checked, rows, values, sizes=sizes) / len(indices)
        costs.append(CutCosts(compute_s, join_s, row_bytes))
    return costs


def _join_seconds(
    adapted: Adapted,
    checked: CheckedCut,
    rows: Rows,
    values: Sequence[Mapping[str, Tensor]],
    *,
    sizes: Mapping[str, int],
) -> float:
    """Return the seconds that a batch of kept rows takes; encoding counts unless encoded rows are held in memory."""

    def encode() -> list[Example]:
        return [adapted.task.encode(rows.row(index), adapted.context, train=False) for index in range(len(values))]

    held = [without_pixels(example) for example in encode()] if checked.shape_only else None
    started = time.perf_counter()
    examples = encode() if held is None else held
    adapted.task.collate(examples, adapted.context)
    checked.cut.join(unpacked(adapted, checked.cut, values, examples), sizes)
    return time.perf_counter() - started


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def choose_placement(costs: CutCosts, row_bytes: float, total: int, limits: CacheLimits) -> CachePlacement:
    """Choose where `total` rows of `row_bytes` each are kept, or that they are computed again.

    Values are kept where they fit, if that is quicker than computing them in every pass, or if the user asked for it.
    """
    size = round(row_bytes * total)
    compute_s, join_s = costs.compute_s, costs.join_s
    on_disk = join_s + row_bytes * DISK_S_PER_BYTE
    figures = f"{_ms(compute_s)} to compute a row, {{}} to read it, {bytes_text(size)} for {total} rows"

    def plan(where: Where, why: str, read_s: float) -> CachePlacement:
        return CachePlacement(where, f"{why}: {figures.format(_ms(read_s))}", size, compute_s, read_s)

    def pays(write_s: float, read_s: float) -> bool:
        passes = limits.passes
        return limits.asked or compute_s + write_s + passes * read_s < WORTH * passes * compute_s

    if size > limits.budget:
        return plan("recompute", f"more than the {bytes_text(limits.budget)} of compute.trunk_gb", on_disk)
    fits = {where for where, free in limits.free.items() if size <= free}
    if not fits:
        free = " and ".join(f"{bytes_text(free)} of {where}" for where, free in limits.free.items())
        return plan("recompute", f"more than half of what is free, {free}", on_disk)
    if "disk" in fits and pays(row_bytes * DISK_S_PER_BYTE, on_disk):
        return plan("disk", "kept in the store, for later runs too", on_disk)
    if "memory" in fits and pays(0.0, join_s):
        return plan("memory", "kept in memory", join_s)
    return plan("recompute", "reading would cost as much as computing", on_disk if "disk" in fits else join_s)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2g} ms"
