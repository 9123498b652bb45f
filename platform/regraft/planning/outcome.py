"""A plan as text and as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regraft.bases.base_header import BaseHeader
from regraft.spec.run import RunSpec
from regraft.training.planner import RunPlan
from regraft.training.recorded_times import TimeEstimate
from regraft.units import bytes_text, counted, seconds_text

SPACE, MEMORY = 0.02, 0.15
"""Half-widths of the intervals of bytes in the store and of memory, as shares: what the benchmark allows."""


@dataclass(frozen=True, slots=True)
class TimeFacts:
    """The time of a run, and how far off earlier plans were."""

    estimate: TimeEstimate | None
    off: Mapping[str, tuple[int, float]]
    """For each kind: runs, and the median share."""


@dataclass(frozen=True, slots=True)
class PlanOutcome:
    """The plan of a spec."""

    spec: RunSpec
    plan: RunPlan
    header: BaseHeader
    time: TimeFacts

    def document(self) -> dict[str, Any]:
        """Return the plan as `--json` prints it."""
        plan, checkpoint = self.plan, self.plan.checkpoint
        estimate = self.time.estimate
        return {
            "run": self.spec.run,
            "model": self.spec.name,
            "base": {"reference": self.spec.base, "bytes": self.header.bytes, "numbers": self.header.numbers},
            "task": plan.task,
            "method": plan.method,
            "parameters": plan.parameters,
            "moving": plan.moving,
            "depth": plan.depth,
            "blocks": plan.blocks,
            "rows": dict(plan.rows),
            "steps": plan.steps,
            "evaluations": plan.evaluations,
            "workers": plan.workers,
            "memory": {
                **plan.memory.document(),
                **_interval(plan.memory.device_total, MEMORY),
                "activations_counted": plan.passes,
            },
            "checkpoint": {
                **_interval(checkpoint.total, SPACE),
                **{name: getattr(checkpoint, name) for name in ("delta", "optimizer", "state")},
            },
            "store": {**_interval(plan.checkpoints, SPACE), "checkpoints": plan.kept, "version": checkpoint.delta},
            "time": None if estimate is None else estimate.document(),
            "off": {name: {"runs": runs, "median": share} for name, (runs, share) in self.time.off.items()},
        }

    def facts(self) -> list[tuple[str, str]]:
        """Return the plan as names and values, for a screen."""
        plan, checkpoint = self.plan, self.plan.checkpoint
        share = plan.moving / max(1, plan.parameters)
        depth = f", {plan.depth} of {plan.blocks} blocks frozen" if plan.depth else ""
        estimate = self.time.estimate
        time = "not known: --measure runs a few steps, and runs of this store are learned from"
        if estimate is not None:
            ends = f"{seconds_text(estimate.low)} to {seconds_text(estimate.high)}"
            time = f"{seconds_text(estimate.seconds)} ({ends}; from {estimate.of})"
        return [
            ("parameters", f"{plan.parameters:,}"),
            ("moves", f"{plan.moving:,} ({share:.2%}) by {plan.method}{depth}"),
            ("rows", ", ".join(f"{count:,} {side}" for side, count in plan.rows.items())),
            ("steps", f"{plan.steps:,}, with {counted(plan.evaluations, 'evaluation')}"),
            ("checkpoint", f"{bytes_text(checkpoint.total)} each ({_ends(checkpoint.total, SPACE)})"),
            ("store", f"{bytes_text(plan.checkpoints)} in at most {counted(plan.kept, 'checkpoint')}"),
            ("base", f"{bytes_text(self.header.bytes)} as stored"),
            ("time", time),
        ]

    def memory_rows(self) -> list[tuple[str, str, str]]:
        """Return the parts of a worker's memory: name, bytes, and where they are."""
        memory = self.plan.memory
        where = "GPU" if memory.gpu else "process"
        rows = [(name, bytes_text(count), where) for name, count in memory.device.items()]
        rows += [(name, bytes_text(count), "process") for name, count in memory.host.items()]
        ends = _ends(memory.device_total, MEMORY)
        more = "" if self.plan.passes else "; activations could not be counted"
        return [*rows, ("peak", bytes_text(memory.device_total), f"{where}, {ends}{more}")]

    def accuracy(self) -> list[str]:
        """Return how far off earlier plans were, a sentence for each kind."""
        return [
            f"the last {runs} plans of {name} were off by {share:.1%} (median)"
            for name, (runs, share) in self.time.off.items()
        ]


def _interval(count: float, share: float) -> dict[str, int]:
    return {"bytes": round(count), "low": round((1 - share) * count), "high": round((1 + share) * count)}


def _ends(count: float, share: float) -> str:
    return f"{bytes_text((1 - share) * count)} to {bytes_text((1 + share) * count)}"
