"""Measure the nearest-centroid baseline of a search on the unchanged base, like a trial that does not count."""

from __future__ import annotations

import logging

from regraft.contracts import BaselineMeasured, Event, Note, TrunkShared
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import BASE, base_of_trial, short_base
from regraft.store.checkpoints import remove
from regraft.training.baselines import CENTROID
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.workers import WorkerDied, WorkerPool
from regraft.tuning.protocol import End, Report, Trial
from regraft.tuning.records import best_first
from regraft.tuning.space import without_search

log = logging.getLogger(__name__)


class BaselineCoordinator:
    """A coordinator for one baseline run, which the search's records do not contain."""

    def __init__(self, coordinator: SearchCoordinator) -> None:
        self._coordinator = coordinator
        self.metrics: dict[str, float] = {}
        self.correct = ""
        self.error: str | None = None

    def report(self, trial: str, report: Report) -> bool:
        """Store the metrics."""
        self.metrics = dict(report.metrics)
        return True

    def reserve(self, trial: str, count: int) -> bool:
        """Reserve space as for any trial: the correct rows are known only once a checkpoint is written."""
        return self._coordinator.reserve(trial, count)

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """Delete the checkpoint, which is not needed any more."""
        self._coordinator.release(trial)
        remove(self._coordinator.search_store.store, prefix if prefix.endswith("/") else f"{prefix}/")

    def ended(self, trial: str, end: End) -> None:
        """Store the correct rows, or the error."""
        self.correct, self.error = end.correct, end.error

    def emit(self, event: Event) -> None:
        """Pass on TrunkShared events only; others do not belong to the search."""
        if isinstance(event, TrunkShared):
            self._coordinator.emit(event)


def measure_centroid(coordinator: SearchCoordinator, pool: WorkerPool) -> None:
    """Measure the baseline once per base, in a worker that has everything loaded; a failure is only noted.

    Of several bases, those with a result are measured, the best first.
    """
    spec, record = without_search(coordinator.spec), coordinator.record
    if not (spec.training.baselines and "baselines" in spec.task.supports and "prototypes" in spec.task.supports):
        return
    ranked = best_first(coordinator.records(), record.score)
    for base in dict.fromkeys(base_of_trial(trial.overrides) for trial in ranked) if record.bases else [""]:
        known = record.bases[base].get("baselines", {}) if base else record.baselines
        if "nearest_centroid" not in known and not coordinator.over:
            _measure(coordinator, pool, spec, base)


def _measure(coordinator: SearchCoordinator, pool: WorkerPool, spec: RunSpec, base: str) -> None:
    """Measure the baseline of one base; `base` is empty where all trials have the spec's own."""
    record, of = coordinator.record, f" of {short_base(base)}" if base else ""
    trial = Trial(-1, {"method": CENTROID, "losses": [], **({BASE: base} if base else {})})
    baseline = BaselineCoordinator(coordinator)
    try:
        trial.spec(spec)
        pool.ready(0, baseline)
        pool.work(0, [trial], baseline)
    except (RequestError, WorkerDied) as error:
        log.info("no nearest-centroid baseline%s: %s", of, error)
        return
    if baseline.error or not baseline.metrics:
        reason = baseline.error or "its measurement ended without a result"
        coordinator.emit(Note(f"the search goes on without the nearest-centroid baseline{of}: {reason}"))
        return
    record.add_baselines({"nearest_centroid": baseline.metrics}, baseline.correct, base)
    coordinator.emit(BaselineMeasured(f"nearest_centroid{of}", baseline.metrics))
