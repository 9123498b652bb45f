"""A search in this process, with one worker and without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from regraft.contracts import Progress
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.store.scratch_folder import scratch_folder
from regraft.training.harness import LocalHarness
from regraft.training.prepare import threads_per_rank
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.protocol import Coordinator, SearchJob, Trial
from regraft.tuning.session import again_of, search_session
from regraft.tuning.space import decides_without_tune
from regraft.tuning.study import GridPoints, NoStopping, RandomPoints, Study
from regraft.tuning.worker.worker import TrialWorker


class LocalPool:
    """A worker pool of one worker in this process."""

    slots = 1

    def __init__(self) -> None:
        self._scratch = ExitStack()
        self._folder = self._scratch.enter_context(scratch_folder("regraft-search-"))
        self._job: SearchJob | None = None
        self._worker: TrialWorker | None = None

    def assign(self, job: SearchJob) -> None:
        """Set the job, with this machine's CPU threads."""
        self._job = replace(job, threads=threads_per_rank(RunSpec.resolve(job.spec)))

    def ready(self, slot: int, coordinator: Coordinator) -> None:
        """Prepare the worker, once."""
        if self._worker is None:
            assert self._job is not None
            harness = LocalHarness(progress=coordinator.emit)
            worker = TrialWorker(self._job, harness, self._folder)
            worker.prepare(coordinator)
            self._worker = worker

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends."""
        assert self._worker is not None
        self._worker.run(trials, coordinator)

    def close(self) -> None:
        """Release the model and delete the scratch folder."""
        if self._worker is not None:
            self._worker.close()
        self._scratch.close()


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
