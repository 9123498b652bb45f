"""A search in this process, with one worker and without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import replace

from regraft.contracts import Progress
from regraft.errors import RequestError, RunError
from regraft.spec.run import RunSpec
from regraft.store.scratch_folder import scratch_folder
from regraft.training.harness import Harness, LocalHarness
from regraft.training.prepare import threads_per_rank
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.driver.work_thread import WorkThread
from regraft.tuning.driver.workers import READY_GRACE_S, SearchLimits, WorkerHangs, WorkStopped
from regraft.tuning.protocol import Coordinator, SearchJob, Trial
from regraft.tuning.session import again_of, search_session
from regraft.tuning.space import decides_without_tune
from regraft.tuning.study import GridPoints, NoStopping, RandomPoints, Study
from regraft.tuning.worker.worker import TrialWorker

POLL_S = 0.2
"""Seconds between two looks at the worker."""


class LocalPool:
    """A worker pool of one worker in this process.

    Its trials run in a thread of their own, so that the caller can leave one that hangs, or leave at a signal.
    """

    slots = 1

    def __init__(self) -> None:
        self._scratch = ExitStack()
        self._folder = self._scratch.enter_context(scratch_folder("regraft-search-"))
        self._job: SearchJob | None = None
        self._limits: SearchLimits | None = None
        self._worker: TrialWorker | None = None
        self._thread: WorkThread | None = None

    def assign(self, job: SearchJob, limits: SearchLimits) -> None:
        """Set the job, with this machine's CPU threads, and what ends it."""
        self._job = replace(job, threads=threads_per_rank(RunSpec.resolve(job.spec)))
        self._limits = limits

    def ready(self, slot: int, coordinator: Coordinator) -> None:
        """Prepare the worker, once. Raises RunError if it hangs."""
        if self._worker is None:
            assert self._job is not None and self._limits is not None
            harness = LocalHarness(progress=coordinator.emit)
            harness.notice = self._limits.notice
            worker = TrialWorker(self._job, harness, self._folder)
            try:
                self._wait(lambda: worker.prepare(coordinator), harness, least=READY_GRACE_S)
            except WorkerHangs as error:
                raise RunError(f"base and rows could not be loaded: {error}") from error
            self._worker = worker

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends, or to a checkpoint after a stop notice."""
        worker = self._worker
        assert worker is not None
        self._wait(lambda: worker.run(trials, coordinator), worker.harness)

    def close(self) -> None:
        """Release the model and delete the scratch folder."""
        ended = self._end_thread()
        if self._worker is not None and ended:
            self._worker.close()
        self._scratch.close()

    def _wait(self, call: Callable[[], None], harness: Harness, *, least: float | None = None) -> None:
        """Wait until a call has ended in the worker's thread. Raises WorkStopped or WorkerHangs if it is left."""
        assert self._limits is not None
        self._thread = self._thread or WorkThread()
        harness.pulse.begin()
        running = self._thread.start(call)
        while not wait([running], timeout=POLL_S).done:
            if self._limits.notice and not harness.stepping:
                raise WorkStopped
            try:
                self._limits.check_alive(harness.pulse.silent_s, harness.pulse.longest, least=least)
            except WorkerHangs:
                self._end_thread()
                self._worker = None
                raise
        running.result()

    def _end_thread(self) -> bool:
        thread, self._thread = self._thread, None
        return thread is None or thread.end()


def search_here(
    spec: RunSpec, *, fresh: bool = False, same: bool = False, progress: Progress | None = None
) -> SearchOutcome:
    """Search a spec's space in this process, without any part of Ray."""
    return search_session(spec, plain_study, LocalPool, again=again_of(fresh=fresh, same=same), progress=progress)


def plain_study(spec: RunSpec) -> Study:
    """Return a study with random or grid points and no early stopping. Raises RequestError for one of Ray Tune's."""
    if not decides_without_tune(spec):
        raise RequestError(
            "Optuna, asha and median are Ray Tune's: write sampler: random and scheduler: none", "search"
        )
    return Study(spec, GridPoints(spec) if spec.searched().sampler == "grid" else RandomPoints(spec), NoStopping())
