"""The state that all trials of one worker share: the base, the rows, and the kept outputs of frozen parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.bases.adapt import narrow
from regraft.bases.adapted import Adapted
from regraft.bases.load import load_processor
from regraft.bases.locate import Base
from regraft.data.sampler import batches_per_epoch
from regraft.data.snapshot import Snapshot, open_snapshot
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import ObjectStore, open_existing
from regraft.training.budget_guard import check_one_epoch
from regraft.training.cut_check import CutSite
from regraft.training.distribute import make_accelerator
from regraft.training.harness import Harness
from regraft.training.job import Job
from regraft.training.memory_check import check_weights_fit
from regraft.training.phases import phases_of, trained_names
from regraft.training.prepare import base_of
from regraft.training.run import Run, build_model
from regraft.training.run_steps import steps_of
from regraft.training.teachers import TeacherLogits, load_teachers, teachers_of
from regraft.tuning.protocol import Coordinator, SearchJob, Trial
from regraft.tuning.worker.callbacks import TrialCallbacks
from regraft.tuning.worker.shared_cuts import SharedCuts, task_key


class TrialHarness(Harness):
    """The harness of one trial: it shares its worker's stop notice and signs of life, and shows no progress."""

    def __init__(self, worker: Harness) -> None:
        super().__init__(device=worker.device)
        self.notice, self.pulse = worker.notice, worker.pulse

    def consumed(self, step: int, rows: np.ndarray) -> None:
        """Give a sign of life after each step."""
        self.pulse.beat()


@contextmanager
def in_steps(harness: Harness) -> Iterator[None]:
    """Mark the worker as taking steps: a stop notice is then met at the end of one."""
    harness.stepping = True
    try:
        yield
    finally:
        harness.stepping = False


class WorkerContext:
    """Store, base, rows and shared outputs of one worker. `folder` is scratch, `of` names one of several bases."""

    store: ObjectStore
    base: Base
    snapshot: Snapshot

    def __init__(self, job: SearchJob, harness: Harness, folder: Path, of: str = "") -> None:
        self.job, self.harness, self.folder, self.of = job, harness, folder, of
        self.spec = RunSpec.resolve(job.spec)
        self.cuts_by_task: dict[str, SharedCuts] = {}
        self._processors: dict[str, Any] = {}
        self._teachers: dict[str, Mapping[str, TeacherLogits]] = {}

    def load(self, other: WorkerContext | None = None) -> None:
        """Open the store, locate the base, and open the rows. Raises WrongBase if the base has changed.

        `other` is a loaded context of another base, whose store and rows are shared.
        """
        if self.job.threads:
            torch.set_num_threads(self.job.threads)
        self.store = other.store if other else open_existing(self.spec.store)
        self.base = base_of(self.store, self.spec, self._job_of(self.spec))
        check_weights_fit(self.base, self.harness)
        self.snapshot = other.snapshot if other else open_snapshot(self.store, self.job.fingerprint)

    def adapted(self, spec: RunSpec) -> Adapted:
        """Return a trial's model before its first step."""
        key = task_key(spec)
        if key not in self._processors:
            self._processors[key] = load_processor(self.base, spec.task.modality)
        return build_model(spec, self.snapshot, self.harness, self.base, processor=self._processors[key])

    def site(self, spec: RunSpec) -> CutSite:
        """Return a trial's model before its first step, on the device where it would be trained."""
        adapted = self.adapted(spec)
        adapted.model.to(self.harness.device)
        accelerator = make_accelerator(spec.compute, self.harness)
        return CutSite(spec, self.snapshot, adapted, self.harness, accelerator, self.store, self.job.search)

    def sites(self, spec: RunSpec) -> list[CutSite]:
        """Return such a site for each phase of a trial; one where the same weights move throughout."""
        first = self.site(spec)
        rows = len(self.snapshot.train)
        phases = phases_of(
            first.adapted, steps_of(spec.training, rows), batches_per_epoch(rows, spec.training.batch_size)
        )
        if len(phases) == 1:
            return [first]
        found = [first, *(self.site(spec) for _ in phases[1:])]
        for site, phase in zip(found, phases, strict=True):
            narrow(site.adapted, trained_names(site.adapted), phase.moves)
        return found

    def teachers(self, run: Run) -> Mapping[str, TeacherLogits]:
        """Return the logits that a trial's loss terms learn from; trials of one precision share them."""
        key = repr((teachers_of(run.spec), run.spec.compute.precision))
        if key not in self._teachers:
            harness, name = self.harness, self.job.search
            site = CutSite(run.spec, self.snapshot, run.adapted, harness, run.accelerator, self.store, name)
            self._teachers[key] = load_teachers(site, self.folder)
        return self._teachers[key]

    def callbacks_for(self, trial: Trial, spec: RunSpec, coordinator: Coordinator) -> TrialCallbacks:
        """Return the callbacks of a trial, with its checkpoints."""
        checkpoints = Checkpoints.of_trial(self.store, self.job.search, trial.id)
        return TrialCallbacks(trial.id, checkpoints, coordinator, base_hash=self.job.base_hash, score=spec.task.score)

    def cuts_for(self, spec: RunSpec, coordinator: Coordinator) -> SharedCuts:
        """Return the shared outputs for rows that are read as this spec reads them."""
        key = task_key(spec)
        if key not in self.cuts_by_task:
            budget = round(spec.compute.trunk_gb * 1e9 / self.job.sharing)
            self.cuts_by_task[key] = SharedCuts(self.snapshot, self.folder, budget, coordinator.emit, self.of)
        cuts = self.cuts_by_task[key]
        cuts.emit = coordinator.emit
        return cuts

    def close(self) -> None:
        """Release the shared outputs and the processors."""
        self.cuts_by_task.clear()
        self._processors.clear()

    def _job_of(self, spec: RunSpec) -> Job:
        job = self.job
        document = spec.model_dump(mode="json")
        return Job(document, job.search, job.base_hash, job.fingerprint, tuple(job.labels), job.threads)


def check_search(context: WorkerContext) -> None:
    """Raise RequestError where a search's budget is smaller than one epoch of the cheapest method."""
    seconds = context.spec.budget.seconds
    if seconds is not None:
        check_one_epoch(context.adapted(context.spec), context.snapshot, seconds)
