"""The honest baseline of a search: nearest centroid on the untouched base, run like a trial that does not count."""

from __future__ import annotations

import logging
from typing import Any

from regraft.errors import RequestError
from regraft.store.checkpoints import remove
from regraft.training.baselines import CENTROID
from regraft.tuning.driver.coordinator import FrontDesk, told
from regraft.tuning.driver.workers import Crew, WorkerDied
from regraft.tuning.protocol import End, Report, Trial
from regraft.tuning.space import alone

log = logging.getLogger(__name__)


class Apart:
    """A desk that keeps what one trial gives out of the search's records."""

    def __init__(self, desk: FrontDesk) -> None:
        self._desk = desk
        self.metrics: dict[str, float] = {}
        self.correct = ""
        self.error: str | None = None

    def report(self, trial: str, report: Report) -> bool:
        """Remember it."""
        self.metrics = dict(report.metrics)
        return True

    def room(self, trial: str, count: int) -> bool:
        """As for any trial: which rows were right is known of what was written."""
        return self._desk.room(trial, count)

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """It has served its purpose."""
        self._desk.forget(trial)
        remove(self._desk.books.store, prefix if prefix.endswith("/") else f"{prefix}/")

    def ended(self, trial: str, end: End) -> None:
        """Remember it."""
        self.correct, self.error = end.correct, end.error

    def say(self, event: str, **fields: Any) -> None:
        """What is shared counts."""
        if event == "shared":
            self._desk.say(event, **fields)


def measure_centroid(desk: FrontDesk, crew: Crew) -> None:
    """Measure it once a search, in a worker that has everything there; that it cannot be measured ends nothing."""
    spec, record = alone(desk.spec), desk.record
    wanted = spec.training.baselines and "baselines" in spec.task.supports and "prototypes" in spec.task.supports
    if not wanted or "nearest_centroid" in record.baselines or desk.over:
        return
    trial = Trial(-1, {"method": CENTROID, "losses": []})
    try:
        trial.spec(spec)
        apart = Apart(desk)
        crew.ready(0, apart)
        crew.work(0, [trial], apart)
    except (RequestError, WorkerDied) as error:
        log.info("no nearest-centroid baseline: %s", error)
        return
    if apart.error or not apart.metrics:
        desk.say("note", message=f"no nearest-centroid baseline: {told(RuntimeError(apart.error or 'no metrics'))}")
        return
    record.baselines["nearest_centroid"], record.baseline_correct = apart.metrics, apart.correct
    desk.say("baseline", name="nearest_centroid", metrics=apart.metrics)
