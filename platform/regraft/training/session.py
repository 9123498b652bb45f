"""A run from spec to registered model: prepare on the driver, train anywhere, complete on the driver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from regraft.contracts import Progress
from regraft.errors import LeaseHeld, Stopped, StoreError
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.lease import Lease
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.event_log import EventLog
from regraft.training.harness import LocalHarness
from regraft.training.job import Job
from regraft.training.loop import fit
from regraft.training.prepare import choose_run, find, prepare
from regraft.training.registration import Outcome, complete, finished, last_state
from regraft.training.stop_signals import on_sigterm, when_asked

log = logging.getLogger(__name__)

Execute = Callable[[Job], None]
"""Runs `fit` for a job on whatever there is, and returns when the run's last checkpoint is in the store."""


def train_session(spec: RunSpec, execute: Execute, *, fresh: bool = False, progress: Progress | None = None) -> Outcome:
    """Prepare, execute, complete; one driver a run, held by a lease.

    What is told to a `progress` that is a EventLog is kept with the run, what `execute` tells it too.
    """
    say = progress if isinstance(progress, EventLog) else EventLog(progress)
    began = time.monotonic()
    spec = spec.model_copy(update={"search": None})  # a run is what it is, whatever else its spec may vary
    store = open_store(spec.store)
    store.check()
    runs = Runs(store)
    run = choose_run(runs, spec, fresh=fresh)
    with Lease(store, run) as lease:
        known = find(runs, run)
        if known is not None and known.get("state") == "registered":
            return finished(store, spec, run, known)
        runs.forget_stop(run)
        job = prepare(store, spec, run, say)
        with say.of(runs, run), mark_failed(runs, run, lease):
            execute(job)
            if lease.lost.is_set():
                raise LeaseHeld("another driver took this run over while it trained; it will register the model", run)
            return complete(store, spec, job, began, say)


@contextmanager
def mark_failed(runs: Runs, run: str, lease: Lease) -> Iterator[None]:
    """Write into the run's document that it failed, or where it stopped, unless another driver has it now."""
    try:
        yield
    except BaseException as ended:
        if not lease.lost.is_set():
            try:
                if isinstance(ended, Stopped):
                    runs.update(run, state="stopped", step=last_state(Checkpoints(runs.store, run)).step)
                else:
                    runs.update(run, state="failed")
            except StoreError as error:
                # A full disk or a lost server: what ended the run must not be hidden by what it ends too.
                log.info("run %s could not be marked as failed: %s", run, error)
        raise


def train_local(spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None) -> Outcome:
    """Train in this process, without Ray."""
    say = EventLog(progress)

    def execute(job: Job) -> None:
        harness = LocalHarness(progress=say)
        with on_sigterm(harness.notice), when_asked(Runs(open_store(spec.store)), job.run, harness.notice):
            state = fit(job, harness)
        if harness.notice and not state.finished:
            raise stopped(job, harness.notice.reason)

    return train_session(spec, execute, fresh=fresh, progress=say)


def stopped(job: Job, reason: str) -> Stopped:
    """What a command says that ended before its run did."""
    return Stopped(f"{reason}: what was trained is in a checkpoint, and the same command goes on from there", job.run)
