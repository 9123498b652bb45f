"""Trials grouped by depth, the number of frozen blocks, and the knee over these groups.

The **knee** is the cheapest column whose best trial lies within noise of the best of all: the one-standard-error rule
(Breiman, Friedman, Olshen and Stone, 1984, section 3.4.3; Hastie, Tibshirani and Friedman, 2009, section 7.10). Rules
that look for the sharpest bend of a curve (Kneedle; Satopaa et al., 2011) need an ordered, evenly sampled curve, and
find a bend in noise as well. Depths are few and uneven, and stand beside methods that have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from regraft.errors import UnknownPlugin
from regraft.report.numbers import format_number
from regraft.spec.search_bases import base_of_trial, short_bases
from regraft.tuning.records import TrialRecord, best_first
from regraft.units import finite_number

if TYPE_CHECKING:
    from regraft.contracts import Method

_ALIKE = 1.05
"""Costs within this factor count as equal, since clocks are not more exact."""
_GUESS = 0.01


@dataclass(frozen=True, slots=True)
class DepthColumn:
    """Trials with the same number of frozen blocks, or of the same method where that has no depth."""

    depth: int | None
    """Number of frozen blocks; None for a method that has no depth."""
    blocks: int
    method: str
    """The method of all its trials; empty if they differ or it is not known."""
    trials: tuple[TrialRecord, ...]
    """Trials that ran to their end, the best first: only these are compared."""
    unfinished: tuple[TrialRecord, ...]
    """Trials with a result after fewer epochs, since they were stopped: not comparable. The best first."""
    others: int
    """Number of trials without a result."""
    best: float | None
    """The best result of the trials that ran to their end."""
    seconds: float | None
    """Duration of a trial of full length: the median of seconds per epoch, times the most epochs of any trial."""
    share: float | None
    """Trainable share of all parameters."""
    base: str = ""
    """The short name of the base of all its trials, where there are several."""

    @property
    def shown(self) -> tuple[TrialRecord, ...]:
        """Every trial with a result."""
        return (*self.trials, *self.unfinished)

    @property
    def count(self) -> int:
        """The number of its trials, with those that have no result."""
        return len(self.shown) + self.others

    @property
    def brief(self) -> str:
        """The name in its short form: `4 of 6 frozen`."""
        return self.name.replace(" blocks", "")

    @property
    def name(self) -> str:
        """The name of the column: `4 of 6 blocks frozen`, `lora`, `lora of minilm`."""
        return f"{self.plain_name} of {self.base}" if self.base else self.plain_name

    @property
    def plain_name(self) -> str:
        """The name without the base."""
        if self.depth is None:
            return self.method or "unknown"
        if self.method and not _has_depth_field(self.method):
            return self.method
        if self.blocks and self.depth == self.blocks:
            return f"all {self.blocks} blocks frozen"
        return f"{self.depth} of {self.blocks} blocks frozen" if self.blocks else f"{self.depth} blocks frozen"


@dataclass(frozen=True, slots=True)
class Knee:
    """The column from which on more cost buys no improvement that these rows could distinguish from chance."""

    best: DepthColumn
    column: DepthColumn
    noise: float
    """Distance from the best that still counts as equal, in the metric's unit."""
    source: str
    """How the noise was estimated, as text."""


def value(metrics: Mapping[str, Any] | None, name: str) -> float | None:
    """A metric that is a finite number, or None."""
    return finite_number((metrics or {}).get(name))


def ranked(trials: Sequence[TrialRecord], score: Mapping[str, str]) -> list[TrialRecord]:
    """Return the trials with a finite result, the best first."""
    return best_first([trial for trial in trials if value(trial.best, score["name"]) is not None], score)


def ended(trial: TrialRecord) -> bool:
    """Return whether the trial ran to its end, so that its result can be compared with those of other trials."""
    return trial.status == "finished"


def method_of(trial: TrialRecord) -> str:
    """Return the method that the trial's point of the space names; empty if the space leaves it to the spec."""
    written = trial.overrides.get("method", trial.overrides.get("method.type", ""))
    return str(written.get("type", "")) if isinstance(written, Mapping) else str(written or "")


def epochs_of(trial: TrialRecord) -> float:
    """Return the last reported epoch; 0 for a trial without reports."""
    return max((value(report, "epoch") or 0.0 for report in trial.reports), default=0.0)


def depth_columns(trials: Sequence[TrialRecord], score: Mapping[str, str]) -> list[DepthColumn]:
    """Group the trials by depth, the least frozen first, followed by the methods without a depth.

    Trials whose depth cannot be determined are left out. Each of several bases has columns of its own.
    """
    longest = max((epochs_of(trial) for trial in trials), default=0.0)
    by_base: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        by_base.setdefault(base_of_trial(trial.overrides), []).append(trial)
    names = short_bases(list(by_base))
    return [
        column
        for reference, own in by_base.items()
        for column in _columns_of_base(own, names[reference], score, longest)
    ]


def _columns_of_base(
    trials: Sequence[TrialRecord], base: str, score: Mapping[str, str], longest: float
) -> list[DepthColumn]:
    blocks = max((trial.blocks or 0 for trial in trials), default=0)
    groups: dict[tuple[int | None, str], list[TrialRecord]] = {}
    for trial in trials:
        method = method_of(trial)
        alone = bool(method) and not _by_depth(method)
        depth = None if alone else _depth(trial, method, blocks)
        if alone or depth is not None:
            groups.setdefault((depth, method if alone else ""), []).append(trial)
    order = sorted(groups, key=lambda key: (key[0] is None, key[0] or 0, key[1]))
    found = (_column(key[0], blocks, groups[key], score, longest=longest) for key in order)
    return [replace(column, base=base) for column in found]


def _depth(trial: TrialRecord, method: str, blocks: int) -> int | None:
    """Return the depth that the trial reported, or, if it failed before that, the depth of its point."""
    if trial.depth is not None:
        return trial.depth
    written = trial.overrides.get("method")
    nested = written.get("depth") if isinstance(written, Mapping) else None
    asked = trial.overrides.get("method.depth", nested)
    try:
        found = _method(method).model_validate({} if asked is None else {"depth": asked})
    except (ValueError, UnknownPlugin):
        return None
    return found.frozen_blocks(blocks) if asked is not None or not _has_depth_field(method) else None


def _method(name: str) -> type[Method]:
    """Return the method; where a trial wrote a depth alone, a method that has one."""
    from regraft.contracts import Method

    if name:
        return Method.lookup(name)
    known = (Method.lookup(other) for other in Method.names())
    return next(method for method in known if method.by_depth and "depth" in method.model_fields)


def _by_depth(method: str) -> bool:
    """Return whether trials of the method are compared by their depth. A plugin that is not here is not."""
    try:
        return _method(method).by_depth
    except UnknownPlugin:
        return False


def _has_depth_field(method: str) -> bool:
    """Return whether the method's depth is written, rather than fixed by its name."""
    return "depth" in _method(method).model_fields


def _column(
    depth: int | None, blocks: int, trials: Sequence[TrialRecord], score: Mapping[str, str], *, longest: float
) -> DepthColumn:
    methods = {method_of(trial) for trial in trials}
    with_result = ranked(trials, score)
    best = [trial for trial in with_result if ended(trial)]
    costs = [
        trial.seconds / epochs_of(trial) * longest if epochs_of(trial) else trial.seconds
        for trial in with_result
        if trial.seconds > 0
    ]
    shares = [trial.trainable / trial.total for trial in with_result if trial.total]
    return DepthColumn(
        depth,
        blocks,
        methods.pop() if len(methods) == 1 else "",
        tuple(best),
        tuple(trial for trial in with_result if not ended(trial)),
        len(trials) - len(with_result),
        value(best[0].best, score["name"]) if best else None,
        median(costs) if costs else None,
        median(shares) if shares else None,
    )


def find_knee(columns: Sequence[DepthColumn], score: Mapping[str, str], rows: int) -> Knee | None:
    """Return the knee over the columns in which a trial ran to its end; None if there is none.

    `rows` is the number of evaluation rows.
    """
    measured = [column for column in columns if column.best is not None]
    if not measured:
        return None
    sign = 1.0 if score["mode"] == "max" else -1.0
    best = min(measured, key=lambda column: (-sign * (column.best or 0.0), column.trials[0].number))
    noise, source = _noise(best.best or 0.0, score, rows)
    floor = sign * (best.best or 0.0) - noise - 1e-12
    near = [column for column in measured if sign * (column.best or 0.0) >= floor]
    return Knee(best, _cheapest(near), noise, source)


def _cheapest(near: Sequence[DepthColumn]) -> DepthColumn:
    """Return the fastest column; of equally fast ones the one with the smallest trainable share, then the deepest."""
    lowest = min((column.seconds for column in near if column.seconds is not None), default=None)
    if lowest is not None:
        near = [column for column in near if column.seconds is not None and column.seconds <= _ALIKE * lowest]
    return min(near, key=lambda column: (1.0 if column.share is None else column.share, -(column.depth or 0)))


def _noise(best: float, score: Mapping[str, str], rows: int) -> tuple[float, str]:
    """Return one standard error of a share of rows, and its description.

    It is an upper bound for the mean of any value between 0 and 1. Two right and two wrong rows are added (Agresti and
    Coull, 1998), since a perfect score would have no error otherwise.
    """
    if score["mode"] == "max" and 0 <= best <= 1 and rows > 0:
        share = (best * rows + 2) / (rows + 4)
        error = math.sqrt(share * (1 - share) / (rows + 4))
        return error, f"one standard error of the best on {rows:,} evaluation rows ({format_number(error)})"
    return _GUESS * abs(
        best
    ), f"1 % of the best ({format_number(_GUESS * abs(best))}), no standard error being known here"
