"""A search in this process: one workshop, no Ray started."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from regraft.contracts import Progress
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.training.harness import LocalHarness
from regraft.training.prepare import threads
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.protocol import Desk, SearchJob, Trial
from regraft.tuning.session import search_session
from regraft.tuning.space import decides_plainly
from regraft.tuning.study import Decider, GridPoints, NoRule, RandomPoints
from regraft.tuning.worker.worker import Workshop


class LocalCrew:
    """Runs trials in this process."""

    slots = 1

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="regraft-search-")
        self._job: SearchJob | None = None
        self._workshop: Workshop | None = None

    def assign(self, job: SearchJob) -> None:
        """Say what is to be searched."""
        self._job = replace(job, threads=threads(RunSpec.resolve(job.spec)))

    def ready(self, slot: int, desk: Desk) -> None:
        """Load what all trials share, once."""
        if self._workshop is None:
            assert self._job is not None
            harness = LocalHarness(progress=lambda event: desk.say(**event))
            workshop = Workshop(self._job, harness, Path(self._folder.name))
            workshop.prepare(desk)
            self._workshop = workshop

    def work(self, slot: int, trials: Sequence[Trial], desk: Desk) -> None:
        """Run trials to their ends."""
        assert self._workshop is not None
        self._workshop.run(trials, desk)

    def close(self) -> None:
        """Let the model go."""
        if self._workshop is not None:
            self._workshop.close()
        self._folder.cleanup()


def search_here(spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None) -> SearchOutcome:
    """Search a spec's space in this process, where nothing of Ray is asked for, not even Tune's decisions."""
    return search_session(spec, plain_decider, LocalCrew, fresh=fresh, progress=progress)


def plain_decider(spec: RunSpec) -> Decider:
    """What decides without Ray Tune: at random or by grid, and no trial ends early."""
    assert spec.search is not None
    if not decides_plainly(spec):
        raise RequestError(
            "Optuna, asha and median are Ray Tune's: write sampler: random and scheduler: none", "search"
        )
    return Decider(spec, GridPoints(spec) if spec.search.sampler == "grid" else RandomPoints(spec), NoRule())
