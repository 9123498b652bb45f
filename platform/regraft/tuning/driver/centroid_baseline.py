"""The honest baseline of a search: nearest centroid on the untouched base, run like a trial that does not count."""

from __future__ import annotations

import logging

from regraft.contracts import BaselineMeasured, Event, Note, TrunkShared
from regraft.errors import RequestError
from regraft.store.checkpoints import remove
from regraft.training.baselines import CENTROID
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.workers import WorkerDied, WorkerPool
from regraft.tuning.protocol import End, Report, Trial
from regraft.tuning.records import error_line
from regraft.tuning.space import without_search

log = logging.getLogger(__name__)


class Apart:
    """A desk that keeps what one trial gives out of the search's records."""

    def __init__(self, coordinator: SearchCoordinator) -> None:
        self._coordinator = coordinator
        self.metrics: dict[str, float] = {}
        self.correct = ""
        self.error: str | None = None

    def report(self, trial: str, report: Report) -> bool:
        """Remember it."""
        self.metrics = dict(report.metrics)
        return True

    def reserve(self, trial: str, count: int) -> bool:
        """As for any trial: which rows were right is known of what was written."""
        return self._coordinator.reserve(trial, count)

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """It has served its purpose."""
        self._coordinator.release(trial)
        remove(self._coordinator.search_store.store, prefix if prefix.endswith("/") else f"{prefix}/")

    def ended(self, trial: str, end: End) -> None:
        """Remember it."""
        self.correct, self.error = end.correct, end.error

    def emit(self, event: Event) -> None:
        """Pass on what was shared; no other event belongs to the search."""
        if isinstance(event, TrunkShared):
            self._coordinator.emit(event)


def measure_centroid(coordinator: SearchCoordinator, pool: WorkerPool) -> None:
    """Measure it once a search, in a worker that has everything there; that it cannot be measured ends nothing."""
    spec, record = without_search(coordinator.spec), coordinator.record
    wanted = spec.training.baselines and "baselines" in spec.task.supports and "prototypes" in spec.task.supports
    if not wanted or "nearest_centroid" in record.baselines or coordinator.over:
        return
    trial = Trial(-1, {"method": CENTROID, "losses": []})
    try:
        trial.spec(spec)
        apart = Apart(coordinator)
        pool.ready(0, apart)
        pool.work(0, [trial], apart)
    except (RequestError, WorkerDied) as error:
        log.info("no nearest-centroid baseline: %s", error)
        return
    if apart.error or not apart.metrics:
        reason = error_line(RuntimeError(apart.error or "no metrics"))
        coordinator.emit(Note(f"no nearest-centroid baseline: {reason}"))
        return
    record.baselines["nearest_centroid"], record.baseline_correct = apart.metrics, apart.correct
    coordinator.emit(BaselineMeasured("nearest_centroid", apart.metrics))
