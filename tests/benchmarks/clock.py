"""Timing of two sides in alternating turns, and their ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Spent:
    """Seconds of one turn: wall time and CPU time."""

    wall: float
    cpu: float


class Clock:
    """Starts at creation; counts the CPU time of all threads, or of this one with `time.thread_time`."""

    def __init__(self, count: Callable[[], float] = time.process_time) -> None:
        self._count = count
        self._wall, self._cpu = time.perf_counter(), count()

    def read(self) -> Spent:
        """Return the time since the start, without stopping."""
        return Spent(time.perf_counter() - self._wall, self._count() - self._cpu)


def compared(ours: Sequence[Spent], theirs: Sequence[Spent], *, per: int = 1) -> dict[str, Any]:
    """Return medians in milliseconds of a turn divided by `per`, and our ratio to theirs, for wall and CPU time.

    `ratio` is the median over the pairs, each of which ran under the same conditions; `ratios` are those of all pairs.
    """
    assert len(ours) == len(theirs)
    found: dict[str, Any] = {"pairs": len(ours)}
    for kind in ("wall", "cpu"):
        mine, other = ([getattr(turn, kind) for turn in turns] for turns in (ours, theirs))
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        found[kind] = {
            "ours_ms": round(1000 * median(mine) / per, 3),
            "theirs_ms": round(1000 * median(other) / per, 3),
            "ratio": round(median(ratios), 4),
            "ratios": [round(ratio, 4) for ratio in sorted(ratios)],
        }
    return found


def print_comparison(name: str, figures: dict[str, Any], *, ours: str, theirs: str) -> None:
    """Print a comparison."""
    for kind in ("cpu", "wall"):
        found = figures[kind]
        low, high = found["ratios"][0], found["ratios"][-1]
        print(
            f"{name}, {kind}: {ours} {found['ours_ms']:.1f} ms, {theirs} {found['theirs_ms']:.1f} ms, "
            f"ratio {found['ratio']:.3f} ({low:.3f} to {high:.3f} over {figures['pairs']} pairs)"
        )
