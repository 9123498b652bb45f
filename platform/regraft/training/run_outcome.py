"""What a run took in fact, kept in its record beside its plan."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from regraft.store.runs import RunDocument
from regraft.training.job import Job
from regraft.training.recorded_times import Workload
from regraft.training.run import Run
from regraft.training.run_times import machine, peak_bytes


def workload(run: Run) -> Workload:
    """Return what the time of a run depends on."""
    spec = run.spec
    return Workload(
        task=spec.task.key(),
        method=spec.method.key(),
        base=run.adapted.base.hash,
        parameters=sum(one.numel() for one in run.adapted.model.parameters()),
        batch=spec.training.batch_size,
        rows=len(run.snapshot.train),
        eval_rows=len(run.snapshot.eval),
        steps=run.steps,
        evaluations=run.times.evaluations,
        workers=run.harness.world,
    )


def record_outcome(run: Run, job: Job, document: RunDocument, *, resumed: bool) -> None:
    """Record what a finished run took, on the first rank; `resumed` says that another attempt took a part of it."""
    if not run.harness.first:
        return
    times = run.times
    known = times.first_step + times.step_s + sum(times.parts.values())
    times.parts["end"] = max(0.0, monotonic() - times.began - known)
    newest = run.callbacks.checkpoints.listed()[-1:]
    found = {
        **times.document(),
        "machine": machine(run.harness.device),
        "work": workload(run).document(),
        "peak_bytes": peak_bytes(run.harness.device),
        "checkpoint_bytes": sum(stat.size for saved in newest for stat in saved.store.list(saved.prefix)),
    }
    document.update(outcome=found | ({"resumed": True} if resumed or job.spent else {}))


def with_command_seconds(record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return the outcome of a run's record with the time of its whole command; nothing where there is none."""
    outcome = record.get("outcome")
    if not isinstance(outcome, Mapping) or not isinstance(outcome.get("parts"), Mapping):
        return {}
    around = max(0.0, seconds - float(outcome.get("seconds") or 0.0))
    return {"outcome": {**outcome, "parts": {**outcome["parts"], "around": around}, "command_s": seconds}}
