"""The time of a run from what earlier runs took: those of this store, or one that was made to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.units import finite_number

MOST = 20
"""Newest runs that are looked at."""
SAME_BASE, OTHER_BASE = 0.25, 0.6
"""Half-widths of the interval, as shares: from runs on the same base, and from runs on others."""
MEASURED = 0.2
"""The same from steps that were measured for the plan."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run's time depends on."""

    task: str
    method: str
    base: str
    """Hash of the base; empty where it is not known."""
    parameters: int
    batch: int
    rows: int
    eval_rows: int
    steps: int
    evaluations: int
    workers: int

    def document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TimeEstimate:
    """Seconds of a run's command, with an interval, and what they follow from."""

    seconds: float
    low: float
    high: float
    of: str

    def document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "seconds": round(self.seconds, 2),
            "low": round(self.low, 2),
            "high": round(self.high, 2),
            "of": self.of,
        }


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A finished run with the plan that it began with."""

    plan: Mapping[str, Any]
    outcome: Mapping[str, Any]

    @property
    def work(self) -> Mapping[str, Any]:
        """The workload."""
        found = self.outcome.get("work")
        return found if isinstance(found, Mapping) else {}


def recorded_runs(store: ObjectStore) -> list[RecordedRun]:
    """Return the newest runs that kept plan and outcome of one whole attempt, the newest first."""
    found = []
    for info in Runs(store).list():
        plan, outcome = info.fields.get("plan"), info.fields.get("outcome")
        if isinstance(plan, Mapping) and isinstance(outcome, Mapping) and not outcome.get("resumed"):
            found.append(RecordedRun(plan, outcome))
    return found[:MOST]


def seconds_of(run: RecordedRun, work: Workload) -> float | None:
    """Return what a workload would take, part by part, from what another run took; None where its record lacks it."""
    outcome, known = run.outcome, run.work
    parts = outcome.get("parts") or {}
    step, batch = finite_number(outcome.get("step_s")), finite_number(known.get("batch"))
    if step is None or not batch:
        return None
    shared = max(1, int(known.get("workers") or 1)) / max(1, work.workers)
    larger = work.parameters / max(1.0, float(known.get("parameters") or 0))
    size = shared * (1.0 if known.get("base") == work.base else larger)
    rows = (work.rows + work.eval_rows) / max(1, int(known.get("rows") or 0) + int(known.get("eval_rows") or 0))
    evaluated = max(1, int(outcome.get("evaluations") or 0) * int(known.get("eval_rows") or 0))
    pauses = max(1, int(outcome.get("evaluations") or 0))
    fixed = sum(float(parts.get(name) or 0.0) for name in ("load", "end", "around"))
    growing = sum(float(parts.get(name) or 0.0) for name in ("baselines", "trunk"))
    return (
        fixed
        + size * growing * rows
        + size * float(parts.get("evaluation") or 0.0) / evaluated * work.evaluations * work.eval_rows
        + float(parts.get("pause") or 0.0) / pauses * work.evaluations
        + size * step * work.steps * work.batch / batch
        + max(0.0, float(outcome.get("first_step_s") or 0.0) - step)
    )


def estimate(runs: Sequence[RecordedRun], work: Workload, machine: Mapping[str, Any]) -> TimeEstimate | None:
    """Return the time of a workload from earlier runs of its task and method on this machine; None without any."""
    alike = [one for one in runs if _alike(one, work, machine)]
    same = [one for one in alike if work.base and one.work.get("base") == work.base]
    found = [seconds for one in same or alike if (seconds := seconds_of(one, work)) is not None]
    if not found:
        return None
    middle = median(found)
    spread = max(abs(one - middle) for one in found) / middle if middle else 0.0
    share = max(spread, SAME_BASE if same else OTHER_BASE)
    base = "the same base" if same else "other bases"
    return TimeEstimate(middle, middle * max(0.0, 1 - share), middle * (1 + share), f"{len(found)} runs on {base}")


def _alike(run: RecordedRun, work: Workload, machine: Mapping[str, Any]) -> bool:
    known = run.work
    return run.outcome.get("machine") == dict(machine) and all(
        known.get(name) == getattr(work, name) for name in ("task", "method", "workers")
    )


def off_by(runs: Sequence[RecordedRun]) -> dict[str, tuple[int, float]]:
    """Return by how much plans were off, in the median: for each kind the number of runs and the share.

    `runs` are the newest first. The time of each is compared with what the runs before it make of its workload.
    """
    errors: dict[str, list[float]] = {}
    for place, run in enumerate(runs):
        before = _from_before(run, runs[place + 1 :])
        for name, planned, real in (
            ("memory", run.plan.get("peak_bytes"), run.outcome.get("peak_bytes")),
            ("checkpoint", run.plan.get("checkpoint_bytes"), run.outcome.get("checkpoint_bytes")),
            ("time", None if before is None else before.seconds, run.outcome.get("command_s")),
        ):
            expected, found = finite_number(planned), finite_number(real)
            if expected is not None and found:
                errors.setdefault(name, []).append(abs(expected - found) / found)
    return {name: (len(found), median(found)) for name, found in errors.items()}


def _from_before(run: RecordedRun, earlier: Sequence[RecordedRun]) -> TimeEstimate | None:
    """Return the time that earlier runs give for a run's own workload."""
    known = {field.name: run.work.get(field.name) for field in fields(Workload)}
    machine = run.outcome.get("machine")
    if None in known.values() or not isinstance(machine, Mapping):
        return None
    work: Any = known
    return estimate(earlier, Workload(**work), machine)
