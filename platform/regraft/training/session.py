"""A run from its spec to a registered model: prepare on the driver, train anywhere, complete on the driver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from regraft.contracts import Note, NotesOnce, Progress
from regraft.errors import Interrupted, RequestError, Stopped, StoreError
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.store.runs import Runs
from regraft.training import run_times
from regraft.training.budget_guard import refuse_spent, spent_seconds
from regraft.training.command_clock import CommandClock
from regraft.training.event_log import EventLog
from regraft.training.harness import LocalHarness
from regraft.training.job import Job
from regraft.training.loop import fit
from regraft.training.prepare import (
    PreparedRun,
    RowsChanged,
    check_rows,
    check_stage,
    find_document,
    prepare,
    run_names,
)
from regraft.training.registration import Outcome, register, registered_outcome
from regraft.training.resume import newest_state
from regraft.training.stages import after_stages
from regraft.training.stop_signals import on_interrupt, on_sigterm, on_stop_request

log = logging.getLogger(__name__)


@contextmanager
def run_session(
    spec: RunSpec, *, fresh: bool = False, same: bool = False, progress: Progress | None = None
) -> Iterator[PreparedRun | Outcome]:
    """Hold a run as its only driver; yield it prepared, or its outcome if it was registered before with these rows.

    Where the rows have changed since the spec's newest run, another run of the name with a number is begun. With
    `same`, a finished run is returned whatever its rows are now, and an unfinished one raises RowsChanged.

    The caller trains `prepared.job` and then calls `complete`. Events passed to `prepared.log` are shown to `progress`
    and stored with the run. An error that ends the context is recorded in the run's document.
    """
    if spec.stages and spec.base == spec.stages[0].base:
        raise RuntimeError("the stages of this spec come first: call after_stages")
    if fresh and same:
        raise RequestError("--fresh begins another run and --same keeps to the one that there is: write one of them")
    events = EventLog(progress)
    reading = NotesOnce(events)
    started = time.monotonic()
    spec = spec.model_copy(update={"search": None})  # the search section is not a part of a run
    store = open_store(spec.store)
    store.begin()
    store.check()
    runs = Runs(store)
    for run in run_names(runs, spec, fresh=fresh):
        with Lease(store, run) as lease:
            try:
                begun = _begun(store, spec, run, reading, same=same)
            except RowsChanged as changed:
                if same:
                    raise
                events(Note(f"{changed.what} since run {run} began: another run of this spec begins with what is now"))
                continue
            if isinstance(begun, Outcome):
                yield begun
                return
            begun = replace(begun, began=run_times.now() - (time.monotonic() - started))
            clock = CommandClock()
            with events.of(runs, run), failure_recorded(runs, begun, lease, clock):
                trained = spec.model_copy(update={"training": begun.resolved().training})
                yield PreparedRun(store, trained, begun, started, events, lease, clock)
            return


def _begun(store: ObjectStore, spec: RunSpec, run: str, progress: Progress, *, same: bool) -> Job | Outcome:
    """Return the job of a run, or the outcome of a finished one. Raises RowsChanged."""
    runs = Runs(store)
    known = find_document(runs, run)
    if known is not None and not (same and known.get("state") == "registered"):
        check_stage(store, spec, run, known)
    if known is not None and known.get("state") == "registered":
        if not same:
            check_rows(store, spec, run, known)
        return registered_outcome(store, spec, run, known)
    done = newest_state(Checkpoints(store, run))
    # Nobody recorded the end of a command that was killed: its steps are in the newest checkpoint.
    spent = max(spent_seconds(known or {}), done.seconds)
    if not done.finished:
        refuse_spent(spec.budget, spent, run)
    runs.clear_stop(run)
    return replace(prepare(store, spec, run, progress), spent=spent)


def complete(prepared: PreparedRun) -> Outcome:
    """Register the best checkpoint of a trained run; raises LeaseHeld if another driver has taken the run over."""
    prepared.lease.raise_if_lost(
        "another driver took this run over while it trained; it will register the model", prepared.job.run
    )
    return register(prepared)


Finish = Callable[[PreparedRun], Outcome]
"""Ends a trained run: registers its model, or keeps it for a later choice."""


@contextmanager
def failure_recorded(runs: Runs, job: Job, lease: Lease, clock: CommandClock) -> Iterator[None]:
    """Record in the run's document that it failed, or where it stopped, unless another driver holds it now."""
    run = job.run
    try:
        yield
    except BaseException as ended:
        if not lease.lost.is_set():
            try:
                spent = {"spent_s": clock.spent_s(job)}
                if isinstance(ended, Stopped | KeyboardInterrupt):
                    kept = Checkpoints(runs.store, run).listed()
                    runs.update(run, state="stopped", step=max((saved.step for saved in kept), default=0), **spent)
                else:
                    runs.update(run, state="failed", **spent)
            except StoreError as error:
                # A full disk or a lost server may have ended the run: the first error is the one to raise.
                log.info("run %s could not be marked as failed: %s", run, error)
        raise


def train_local(
    spec: RunSpec,
    *,
    fresh: bool = False,
    same: bool = False,
    progress: Progress | None = None,
    finish: Finish = complete,
) -> Outcome:
    """Train in this process, without Ray, and register the model, or `finish` the run; stages come first."""
    spec = after_stages(spec, partial(train_local, fresh=fresh, same=same, progress=progress), progress)
    with run_session(spec, fresh=fresh, same=same, progress=progress) as prepared:
        if isinstance(prepared, Outcome):
            return prepared
        job, harness = prepared.job, LocalHarness(progress=prepared.log)
        notice = harness.notice
        with (
            on_sigterm(notice),
            on_interrupt(notice, lambda: harness.stepping),
            on_stop_request(Runs(prepared.store), job.run, notice),
        ):
            state = fit(job, harness)
        if notice and not state.finished:
            raise stopped(job, notice.reason, interrupted=notice.interrupted)
        return finish(prepared)


def stopped(job: Job, reason: str, *, interrupted: bool = False) -> Stopped:
    """Return the error of a command that ended before its run did."""
    text = f"{reason}: what was trained is in a checkpoint, and the same command goes on from there"
    return Interrupted(text, job.run) if interrupted else Stopped(text, job.run)
