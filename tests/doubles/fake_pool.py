"""A worker pool without training: metrics are a function of the learning rate, checkpoints are random bytes.

Everything else is real: coordinator, records, store and study.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from regraft.contracts import Progress
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_existing
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.driver.workers import SearchLimits, WorkerPool
from regraft.tuning.protocol import Coordinator, End, Report, SearchJob, Trial
from regraft.tuning.session import again_of, search_session
from regraft.tuning.study import GridPoints, NoStopping, RandomPoints, Study
from support.tiny import document

EPOCHS = 3


def study(spec: RunSpec) -> Study:
    """Return a study with random or grid points and no early stopping."""
    return Study(spec, GridPoints(spec) if spec.searched().sampler == "grid" else RandomPoints(spec), NoStopping())


def a_spec(folder: Path, search: Mapping[str, Any], **fields: Any) -> RunSpec:
    """Return a spec on a tiny base and tiny rows, with a search section."""
    return RunSpec.resolve({**document(folder, method="feature-extraction"), "search": search, **fields})


def accuracy(overrides: Mapping[str, Any], epoch: int) -> float:
    """Return an accuracy that grows with the epoch and is best at a learning rate of 1e-3."""
    rate = float(overrides.get("training.lr", 1e-3))
    return max(0.0, 1 - abs(math.log10(rate) + 3) / 4) * (0.7 + 0.1 * epoch)


class FakePool:
    """A pool of one slot; `during` is called before each epoch, and may raise."""

    slots = 1

    def __init__(
        self, *, bytes: int = 2000, during: Callable[[Trial, int], None] | None = None, ran: list[str] | None = None
    ) -> None:
        self.bytes, self.during = bytes, during or (lambda trial, epoch: None)
        self.ran = ran if ran is not None else []
        self.refused = 0

    def assign(self, job: SearchJob, limits: SearchLimits) -> None:
        """Take the job."""
        self.job, self.limits = job, limits
        self.store = open_existing(RunSpec.resolve(job.spec).store)

    def ready(self, slot: int, coordinator: Coordinator) -> None:
        """Nothing to load."""

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run the epochs of each trial."""
        for trial in trials:
            if trial.number >= 0:
                self._one(trial, coordinator)

    def close(self) -> None:
        """Nothing to release."""

    def _one(self, trial: Trial, coordinator: Coordinator) -> None:
        self.ran.append(trial.id)
        checkpoints = Checkpoints.of_trial(self.store, self.job.search, trial.id)
        best, goes_on = None, True
        for epoch in range(1, EPOCHS + 1):
            self.during(trial, epoch)
            metrics = {"accuracy": accuracy(trial.overrides, epoch), "loss": 1.0}
            if coordinator.reserve(trial.id, self.bytes):
                delta = random.Random(trial.number).randbytes(self.bytes)
                saved = checkpoints.save(epoch, {"delta.safetensors": delta, "state.json": b"{}"}, {"metrics": metrics})
                coordinator.saved(trial.id, saved.prefix, self.bytes, metrics["accuracy"])
                best = saved.prefix
            else:
                self.refused += 1
            goes_on = coordinator.report(trial.id, Report(epoch, float(epoch), metrics, 0.1 * epoch))
            if not goes_on:
                break
        coordinator.ended(trial.id, End("finished" if goes_on else "stopped", 0.1 * EPOCHS, best, blocks=2, together=1))


def searched(
    spec: RunSpec, pool: WorkerPool, progress: Progress | None = None, *, fresh: bool = False, same: bool = False
) -> SearchOutcome:
    """Run a search with this pool."""
    return search_session(spec, study, lambda: pool, again=again_of(fresh=fresh, same=same), progress=progress)
