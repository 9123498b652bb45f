"""What a search says of depth: its trials side by side by how much of the base stood still, and where the knee is.

The **knee** is the cheapest column whose best trial lies within noise of the best of all: the one-standard-error rule
(Breiman, Friedman, Olshen and Stone, 1984, section 3.4.3; Hastie, Tibshirani and Friedman, 2009, section 7.10). Rules
that look for the sharpest bend of a curve (Kneedle; Satopaa et al., 2011) need an ordered, evenly sampled curve and
find a bend in noise as well; depths here are few, uneven, and stand beside methods that have none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from regraft.report.numbers import figure
from regraft.tuning.records import TrialRecord, best_first

_WITH_DEPTH = ("freeze", "full", "feature-extraction")
_ALIKE = 1.05
"""Costs this near to each other are the same cost: clocks are not more exact than that."""
_GUESS = 0.01


@dataclass(frozen=True, slots=True)
class Column:
    """Trials with the same number of frozen blocks, or of the same method where that has no depth."""

    depth: int | None
    """How many blocks stood still; None for a method that has no depth."""
    blocks: int
    method: str
    """The method of all its trials; empty where they differ or it is not known."""
    trials: tuple[TrialRecord, ...]
    """Those with a result, the best first."""
    others: int
    """How many gave no result."""
    best: float | None
    seconds: float | None
    """What a trial of full length takes: the median of seconds per epoch, times the most epochs of any trial."""
    share: float | None
    """Of all parameters, those that moved."""

    @property
    def brief(self) -> str:
        """The same where there is little room: `4 of 6 frozen`."""
        return self.name.replace(" blocks", "")

    @property
    def name(self) -> str:
        """In words: `4 of 6 blocks frozen`, `lora`."""
        if self.depth is None:
            return self.method or "unknown"
        if self.method in ("full", "feature-extraction"):
            return self.method
        if self.blocks and self.depth == self.blocks:
            return f"all {self.blocks} blocks frozen"
        return f"{self.depth} of {self.blocks} blocks frozen" if self.blocks else f"{self.depth} blocks frozen"


@dataclass(frozen=True, slots=True)
class Knee:
    """Where more cost no longer buys a better model that these rows could tell from chance."""

    best: Column
    column: Column
    noise: float
    """How far below the best still counts as equal, in the metric's own unit."""
    source: str
    """Where the noise comes from, in words."""


def value(metrics: Mapping[str, Any] | None, name: str) -> float | None:
    """A metric that is a finite number, or None."""
    found = (metrics or {}).get(name)
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def ranked(trials: Sequence[TrialRecord], score: Mapping[str, str]) -> list[TrialRecord]:
    """Those with a finite result, the best first."""
    return best_first([trial for trial in trials if value(trial.best, score["name"]) is not None], score)


def method_of(trial: TrialRecord) -> str:
    """The method that the trial's point of the space names; empty where the space leaves it to the spec."""
    written = trial.overrides.get("method", trial.overrides.get("method.type", ""))
    return str(written.get("type", "")) if isinstance(written, Mapping) else str(written or "")


def epochs_of(trial: TrialRecord) -> float:
    """How far it came; 0 where it reported nothing."""
    return max((value(report, "epoch") or 0.0 for report in trial.reports), default=0.0)


def columns(trials: Sequence[TrialRecord], score: Mapping[str, str]) -> list[Column]:
    """The trials by depth, the least frozen first, then the methods that have none; nothing of what has no place."""
    blocks = max((trial.blocks or 0 for trial in trials), default=0)
    longest = max((epochs_of(trial) for trial in trials), default=0.0)
    groups: dict[tuple[int | None, str], list[TrialRecord]] = {}
    for trial in trials:
        method = method_of(trial)
        alone = bool(method) and method not in _WITH_DEPTH
        depth = None if alone else _depth(trial, method, blocks)
        if alone or depth is not None:
            groups.setdefault((depth, method if alone else ""), []).append(trial)
    order = sorted(groups, key=lambda key: (key[0] is None, key[0] or 0, key[1]))
    return [_column(key[0], blocks, groups[key], score, longest) for key in order]


def _depth(trial: TrialRecord, method: str, blocks: int) -> int | None:
    """As the trial found it; of one that failed before that, as it was written."""
    if trial.depth is not None:
        return trial.depth
    written = trial.overrides.get("method")
    nested = written.get("depth") if isinstance(written, Mapping) else None
    asked = trial.overrides.get("method.depth", nested)
    if method == "full":
        return 0
    if method == "feature-extraction" or asked == "all":
        return blocks or None
    if isinstance(asked, int) and not isinstance(asked, bool):
        return asked
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", asked) if isinstance(asked, str) else None
    return round(float(share[1]) / 100 * blocks) if share and blocks else None


def _column(
    depth: int | None, blocks: int, trials: Sequence[TrialRecord], score: Mapping[str, str], longest: float
) -> Column:
    methods = {method_of(trial) for trial in trials}
    best = ranked(trials, score)
    costs = [
        trial.seconds / epochs_of(trial) * longest if epochs_of(trial) else trial.seconds
        for trial in best
        if trial.seconds > 0
    ]
    shares = [trial.trainable / trial.total for trial in best if trial.total]
    return Column(
        depth,
        blocks,
        methods.pop() if len(methods) == 1 else "",
        tuple(best),
        len(trials) - len(best),
        value(best[0].best, score["name"]) if best else None,
        median(costs) if costs else None,
        median(shares) if shares else None,
    )


def knee(found: Sequence[Column], score: Mapping[str, str], rows: int) -> Knee | None:
    """The knee over these columns, `rows` being those that the metric was measured on; None where nothing is told."""
    told = [column for column in found if column.best is not None]
    if not told:
        return None
    sign = 1.0 if score["mode"] == "max" else -1.0
    best = min(told, key=lambda column: (-sign * (column.best or 0.0), column.trials[0].number))
    noise, source = _noise(best.best or 0.0, score, rows)
    floor = sign * (best.best or 0.0) - noise - 1e-12
    near = [column for column in told if sign * (column.best or 0.0) >= floor]
    return Knee(best, _cheapest(near), noise, source)


def _cheapest(near: Sequence[Column]) -> Column:
    """The fewest seconds; of those that take as long, the one that moves least, then the deepest frozen."""
    lowest = min((column.seconds for column in near if column.seconds is not None), default=None)
    if lowest is not None:
        near = [column for column in near if column.seconds is not None and column.seconds <= _ALIKE * lowest]
    return min(near, key=lambda column: (1.0 if column.share is None else column.share, -(column.depth or 0)))


def _noise(best: float, score: Mapping[str, str], rows: int) -> tuple[float, str]:
    """One standard error of a share of rows, which is an upper bound for the mean of any figure between 0 and 1; two
    rows right and two wrong are added (Agresti and Coull, 1998), or a perfect score would have none."""
    if score["mode"] == "max" and 0 <= best <= 1 and rows > 0:
        share = (best * rows + 2) / (rows + 4)
        error = math.sqrt(share * (1 - share) / (rows + 4))
        return error, f"one standard error of the best on {rows:,} evaluation rows ({figure(error)})"
    return _GUESS * abs(best), f"1 % of the best ({figure(_GUESS * abs(best))}), no standard error being known here"
