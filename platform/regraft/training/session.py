"""A run from its spec to a registered model: prepare on the driver, train anywhere, complete on the driver."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
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
from regraft.training.prepare import PreparedRun, choose_run, find_document, prepare
from regraft.training.registration import Outcome, last_state, register, registered_outcome
from regraft.training.stop_signals import on_sigterm, on_stop_request

log = logging.getLogger(__name__)


@contextmanager
def run_session(
    spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None
) -> Iterator[PreparedRun | Outcome]:
    """Hold a run as its only driver; yield it prepared, or its outcome if it was registered before.

    The caller trains `prepared.job` and then calls `complete`. Events passed to `prepared.log` are shown to `progress`
    and stored with the run. An error that ends the context is recorded in the run's document.
    """
    events = EventLog(progress)
    started = time.monotonic()
    spec = spec.model_copy(update={"search": None})  # the search section is not a part of a run
    store = open_store(spec.store)
    store.check()
    runs = Runs(store)
    run = choose_run(runs, spec, fresh=fresh)
    with Lease(store, run) as lease:
        known = find_document(runs, run)
        if known is not None and known.get("state") == "registered":
            yield registered_outcome(store, spec, run, known)
            return
        runs.clear_stop(run)
        job = prepare(store, spec, run, events)
        with events.of(runs, run), failure_recorded(runs, run, lease):
            yield PreparedRun(store, spec, job, started, events, lease)


def complete(prepared: PreparedRun) -> Outcome:
    """Register the best checkpoint of a trained run; raises LeaseHeld if another driver has taken the run over."""
    if prepared.lease.lost.is_set():
        raise LeaseHeld(
            "another driver took this run over while it trained; it will register the model", prepared.job.run
        )
    return register(prepared)


@contextmanager
def failure_recorded(runs: Runs, run: str, lease: Lease) -> Iterator[None]:
    """Record in the run's document that it failed, or where it stopped, unless another driver holds it now."""
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
                # A full disk or a lost server may have ended the run: the first error is the one to raise.
                log.info("run %s could not be marked as failed: %s", run, error)
        raise


def train_local(spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None) -> Outcome:
    """Train in this process, without Ray, and register the model."""
    with run_session(spec, fresh=fresh, progress=progress) as prepared:
        if isinstance(prepared, Outcome):
            return prepared
        job, harness = prepared.job, LocalHarness(progress=prepared.log)
        with on_sigterm(harness.notice), on_stop_request(Runs(prepared.store), job.run, harness.notice):
            state = fit(job, harness)
        if harness.notice and not state.finished:
            raise stopped(job, harness.notice.reason)
        return complete(prepared)


def stopped(job: Job, reason: str) -> Stopped:
    """Return the error of a command that ended before its run did."""
    return Stopped(f"{reason}: what was trained is in a checkpoint, and the same command goes on from there", job.run)
