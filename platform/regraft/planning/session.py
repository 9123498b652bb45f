"""A plan from a spec: the base's header, the checked rows, a model of shapes, and what earlier runs took."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from regraft.bases.base_header import BaseHeader, read_header
from regraft.bases.derived_base import MODEL, find_base, holds_configuration_alone
from regraft.bases.load import load_processor
from regraft.contracts import Progress, note
from regraft.data.base_reading import BaseReading
from regraft.data.row_sample import fit_to_data
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import RequestError, StoreError
from regraft.planning.measuring import measured_run
from regraft.planning.outcome import PlanOutcome, TimeFacts
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.scratch_folder import scratch_folder
from regraft.training.planner import Planner, RunPlan, default_site, process_bytes, processor_bytes
from regraft.training.prepare import base_reference, threads_per_rank
from regraft.training.recorded_times import (
    MEASURED,
    RecordedRun,
    TimeEstimate,
    Workload,
    estimate,
    off_by,
    recorded_runs,
    seconds_of,
)
from regraft.training.run_times import machine
from regraft.training.smaller_runs import space_refusal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlannedRows:
    """A base and the rows that it would be trained on, as far as a plan reads them."""

    header: BaseHeader
    snapshot: Snapshot
    processor: Any
    libraries: int
    """Bytes of this process before anything was read."""


def plan_session(spec: RunSpec, *, measure: bool = False, progress: Progress | None = None) -> PlanOutcome:
    """Plan a spec; with `measure`, a few steps of it are run in a scratch store on this machine.

    Nothing is written to the spec's store, and weights are read only to measure. Raises RequestError where the spec's
    own budget cannot hold the run.
    """
    spec = spec.model_copy(update={"search": None})
    libraries = process_bytes()
    with scratch_folder("regraft-plan-") as scratch:
        began = monotonic()
        read = _read(spec, scratch, libraries, progress)
        prepared_s = monotonic() - began
        spec = resolve_auto(spec, len(read.snapshot.train))
        spec = spec.model_copy(update={"task": fit_to_data(spec.task, read.snapshot.train)})
        planner = Planner(read.header, read.snapshot, read.processor, default_site(spec))
        beside = {"libraries": libraries, "processor": processor_bytes(read.header.folder)}
        plan = planner.plan(spec, beside)
        if problem := space_refusal(spec, plan, planner):
            raise RequestError(problem, where="budget")
        runs = _recorded(spec)
        time, base_hash = None, ""
        if measure:
            note(progress, "measuring a few steps on this machine")
            run = measured_run(spec, read.snapshot, scratch, progress)
            base_hash = str(run.work.get("base"))
            time = _measured(run, _work(spec, plan, base_hash), prepared_s)
        else:
            time = _estimated(spec, plan, runs)
        if problem := too_long(spec, time):
            raise RequestError(problem, where="budget")
        return PlanOutcome(spec, plan, read.header, TimeFacts(time, off_by(runs)))


def _read(spec: RunSpec, scratch: Path, libraries: int, progress: Progress | None) -> PlannedRows:
    """Read the header of the base, and the rows into a scratch store."""
    header = header_of(spec, scratch / "base")
    processor = load_processor(header.as_base(), spec.task.modality)
    store = open_store(str(scratch / "store"))
    store.begin()
    snapshot = build_snapshot(store, spec.task, spec.data, base=BaseReading(lambda: processor, None))
    for text in snapshot.notes:
        note(progress, text)
    return PlannedRows(header, snapshot, processor, libraries)


def header_of(spec: RunSpec, scratch: Path) -> BaseHeader:
    """Return the header of the base that a spec begins with; nothing large is downloaded."""
    reference = base_reference(spec)
    if reference.startswith(MODEL) or holds_configuration_alone(spec.base):
        base = find_base(open_store(spec.store), reference)
        return read_header(str(base.path), scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    return read_header(spec.base, scratch)


def _recorded(spec: RunSpec) -> list[RecordedRun]:
    try:
        return recorded_runs(open_store(spec.store))
    except StoreError as error:
        log.info("earlier runs are not known: %s", error)
        return []


def _work(spec: RunSpec, plan: RunPlan, base_hash: str) -> Workload:
    return Workload(
        task=plan.task,
        method=plan.method,
        base=base_hash,
        parameters=plan.parameters,
        batch=spec.training.batch_size,
        rows=plan.rows["train"],
        eval_rows=plan.rows["eval"],
        steps=plan.steps,
        evaluations=plan.evaluations,
        workers=plan.workers,
    )


def _estimated(spec: RunSpec, plan: RunPlan, runs: list[RecordedRun]) -> TimeEstimate | None:
    """Return the time by earlier runs on a base of as many parameters, or of others; None without any."""
    same = {str(one.work.get("base")) for one in runs if one.work.get("parameters") == plan.parameters}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = dict(machine(device)) | ({"threads": threads} if (threads := threads_per_rank(spec)) else {})
    found = [estimate(runs, _work(spec, plan, base), here) for base in (*sorted(same), "")]
    return next((one for one in found if one is not None), None)


def _measured(run: RecordedRun, work: Workload, prepared_s: float) -> TimeEstimate | None:
    seconds = seconds_of(run, work)
    if seconds is None:
        return None
    total = seconds + prepared_s
    steps = int(run.outcome.get("steps") or 0)
    return TimeEstimate(total, (1 - MEASURED) * total, (1 + MEASURED) * total, f"{steps} measured steps")


def too_long(spec: RunSpec, time: TimeEstimate | None) -> str | None:
    """Return why a run of that time does not fit into its budget; None where it may."""
    seconds = spec.budget.seconds
    if seconds is None or time is None or time.low <= seconds:
        return None
    return (
        f"budget.seconds: {seconds:g} do not hold this run, which is planned to take {time.low:.0f} to {time.high:.0f} "
        f"seconds ({time.of}): write more seconds, fewer training.epochs, or a method that moves less"
    )
