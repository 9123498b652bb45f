"""Keep the trunk's outputs, or compute them again? Measured on this machine in the first seconds, and said."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.data.rows import Rows
from regraft.trunk.cache import BATCH, computed, hollowed
from regraft.trunk.cut import Cut, union

Where = Literal["memory", "disk", "recompute"]

WORTH = 0.97
"""Reading must cost less than this share of computing: else keeping gains nothing."""
DISK_S_PER_BYTE = 1 / 200e6
"""A slow disk: what is read again soon comes from the page cache, but that is not to be counted on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan has to keep to."""

    budget: int
    """The most bytes that the user allows."""
    rooms: Mapping[Where, int]
    """Where values may be kept, and how many bytes there is room for."""
    passes: float
    """How often each row is seen."""
    asked: bool = False
    """The user has named the place: reading may then cost what it costs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and the figures behind it; kept with the run, so that a continued run does the same."""

    where: Where
    why: str
    bytes: int
    """Of all rows together."""
    compute_s: float
    """Seconds to compute one row's trunk."""
    read_s: float
    """Seconds to read one row's kept values and lay them into a batch."""

    def document(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one cut."""

    compute_s: float
    """Seconds to compute one row up to the cut."""
    join_s: float
    """Seconds to lay one row's kept values into a batch, from memory."""
    row_bytes: Mapping[str, float]
    """Of each kept value of one row, by its part's key."""


def plan(
    adapted: Adapted,
    cut: Cut,
    rows: Rows,
    total: int,
    *,
    hollow: bool,
    limits: Limits,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Plan:
    """Time one batch both ways and choose. `total` is how many rows would be kept; `hollow` rows are encoded once."""
    (found,) = measured(adapted, [(cut, hollow)], rows, autocast=autocast)
    return choose(found.compute_s, found.join_s, sum(found.row_bytes.values()), total, limits)


def measured(
    adapted: Adapted,
    cuts: Sequence[tuple[Cut, bool]],
    rows: Rows,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[Figures]:
    """Time one batch through all cuts in one pass; each with whether its rows are encoded once."""
    indices = list(range(min(BATCH, len(rows))))
    everything = union(cut for cut, _ in cuts)
    at: dict[str, float] = {}
    adapted.eval_mode()
    with autocast():
        computed(adapted, everything, rows, indices[:2])  # the first pass pays for what every process pays once
        began = time.perf_counter()
        values, sizes = computed(adapted, everything, rows, indices, lambda key: at.update({key: time.perf_counter()}))
    found = []
    for cut, hollow in cuts:
        each = {part.key: sum(_bytes(row[part.key]) for row in values) / len(values) for part in cut.kept}
        compute_s = (max(at[part.key] for part in cut.kept) - began) / len(indices)
        found.append(Figures(compute_s, _joined(adapted, cut, rows, values, sizes, hollow) / len(indices), each))
    return found


def _joined(
    adapted: Adapted,
    cut: Cut,
    rows: Rows,
    values: Sequence[Mapping[str, Tensor]],
    sizes: Mapping[str, int],
    hollow: bool,
) -> float:
    """Seconds to make a batch of kept rows."""
    task, context = adapted.task, adapted.context
    encoded = [task.encode(rows.row(index), context, train=False) for index in range(len(values))] if hollow else []
    examples = [hollowed(example) for example in encoded]
    began = time.perf_counter()
    if not hollow:
        examples = [task.encode(rows.row(index), context, train=False) for index in range(len(values))]
    task.collate(examples, context)
    cut.join(values, sizes)
    return time.perf_counter() - began


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def choose(compute_s: float, join_s: float, row_bytes: float, total: int, limits: Limits) -> Plan:
    """The rule, apart from the measuring: keep where it fits, and where computing once and reading in every pass is
    quicker than computing in every pass, or where the user says so."""
    size = round(row_bytes * total)
    on_disk = join_s + row_bytes * DISK_S_PER_BYTE
    figures = f"{_ms(compute_s)} to compute a row, {{}} to read it, {_size(size)} for {total} rows"

    def made(where: Where, why: str, read_s: float) -> Plan:
        return Plan(where, f"{why}: {figures.format(_ms(read_s))}", size, compute_s, read_s)

    def worth(once_s: float, each_s: float) -> bool:
        passes = limits.passes
        return limits.asked or compute_s + once_s + passes * each_s < WORTH * passes * compute_s

    if size > limits.budget:
        return made("recompute", f"more than the {_size(limits.budget)} of compute.trunk_gb", on_disk)
    rooms = {where: room for where, room in limits.rooms.items() if size <= room}
    if not rooms:
        told = " and ".join(f"{_size(room)} of {where}" for where, room in limits.rooms.items())
        return made("recompute", f"more than half of what is free, {told}", on_disk)
    if "disk" in rooms and worth(row_bytes * DISK_S_PER_BYTE, on_disk):
        return made("disk", "kept in the store, for later runs too", on_disk)
    if "memory" in rooms and worth(0.0, join_s):
        return made("memory", "kept in memory", join_s)
    return made("recompute", "reading would cost as much as computing", on_disk if "disk" in rooms else join_s)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2g} ms"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
