"""Where all workers of a search hand in: records, verdicts, room for checkpoints, and the next trials to run."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from regraft.contracts import BaselinesMeasured, Event, Note, Progress, TrialUpdated, TrunkShared
from regraft.errors import RequestError, RunError
from regraft.spec.run import RunSpec
from regraft.tuning.driver.checkpoint_budget import CheckpointBudget
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.protocol import End, Report, Trial
from regraft.tuning.records import SearchRecord, TrialRecord, best_first
from regraft.tuning.space import without_search
from regraft.tuning.study import Study

log = logging.getLogger(__name__)
TOGETHER = 64
"""Trials of a head alone that are handed out together, at most."""
TOGETHER_LEARNING = 8
"""The same where the sampler learns from results, which it cannot while they train."""
MEASURED = re.compile(r"[\d.e+-]+ (?:ms|bytes|[kMG]B)\b")
"""What differs in two workers' words for the same."""
OVER = ("finished", "stopped", "failed")


class SearchCoordinator:
    """The driver's side of `trials.Coordinator`; every method may be called from any thread.

    `take` gives out trials and waits while there may be more later; a trial whose worker died is given out again.
    """

    def __init__(
        self,
        spec: RunSpec,
        record: SearchRecord,
        records: Sequence[TrialRecord],
        study: Study,
        budget: CheckpointBudget,
        search_store: SearchStore,
        progress: Progress | None = None,
    ) -> None:
        self.spec, self.search, self.record = spec, spec.searched(), record
        self.study, self.budget, self.search_store = study, budget, search_store
        self._progress = progress
        self._records = {record.id: record for record in records}
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._queue: list[tuple[Trial, bool]] = []
        self._alone: set[str] = set()
        self._notes: set[str] = set()
        self._began = time.monotonic()
        self._before = record.seconds
        self.left = False
        """The driver goes: what is handed in from now on counts no more, and no new trial begins."""
        self.evicted = threading.Event()
        """Set when another driver has the search: then this one has left it, and touches nothing of it any more."""
        self._bare = without_search(spec)
        for known in self.records():
            if known.status not in OVER:
                known.attempts = 0  # the driver died, which says nothing against the trial
                self._await(known)

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return sorted(self._records.values(), key=lambda record: record.number)

    @property
    def seconds(self) -> float:
        """Wall time over all attempts."""
        return self._before + time.monotonic() - self._began

    @property
    def left_s(self) -> float | None:
        """Seconds of the budget that are left; None where none is written."""
        return None if self.search.seconds is None else self.search.seconds - self.seconds

    @property
    def over(self) -> bool:
        """Whether nothing new may begin."""
        return self.left or (self.left_s is not None and self.left_s <= 0)

    # What hands out work.

    def take(self, wait_s: float = 0.5) -> list[Trial] | None:
        """Trials for one worker, those that train a head alone together; empty: none now; None: none any more."""
        with self._news:
            if self.over:
                return None
            if batch := self._batch():
                for trial in batch:
                    self._begin(trial)
                self.search_store.write_trials(self.records(), at_once=False)
                return batch
            if not any(record.status == "running" for record in self._records.values()):
                return None
            self._news.wait(wait_s)
            return []

    def lost(self, batch: Sequence[Trial], why: str, *, blame: bool = True) -> None:
        """The worker that had these died: what did not end runs again, each by itself, a few times at most.

        Without `blame` it died before it had begun with them.
        """
        with self._news:
            for trial in batch:
                record = self._records[trial.id]
                if record.status in OVER or self.left:
                    continue
                if not blame:
                    record.attempts -= 1
                most = self.spec.compute.max_failures
                if blame and 0 <= most < record.attempts:
                    self.ended(trial.id, End("failed", record.seconds, error=f"{record.attempts} workers died: {why}"))
                    continue
                self._await(record)
            if not self.left:
                self.search_store.write_trials(self.records())
            self._news.notify_all()

    def failed(self, batch: Sequence[Trial], why: str) -> None:
        """What ran these could not go on: one trial fails by it; of several each is tried again by itself."""
        with self._news:
            if self.left:
                return
            open_ = [trial for trial in batch if self._records[trial.id].status not in OVER]
            for trial in open_:
                if len(open_) == 1:
                    self.ended(trial.id, End("failed", self._records[trial.id].seconds, error=why))
                else:
                    self._await(self._records[trial.id])
            self._news.notify_all()

    def leave(self) -> None:
        """The driver goes, for an error or because it was told to: what runs is left to the next one."""
        with self._news:
            if self.left:
                return
            self.left = True
            for record in self._records.values():
                if record.status not in OVER:
                    self._await(record)
            self._news.notify_all()

    def _await(self, record: TrialRecord) -> None:
        """Back into the queue; after a first attempt by itself. Its reports stay: it may go on from a checkpoint."""
        if record.attempts:
            self._alone.add(record.id)
        record.status, record.checkpoint = "waiting", None
        trial = Trial(record.number, record.overrides)
        self._queue.append((trial, self._head_only(trial)))

    def _batch(self) -> list[Trial]:
        """The next trial; where it trains a head alone, with others that do, looked for among those to come."""
        first = self._next()
        if first is None:
            return []
        trial, packs = first
        if not packs:
            return [trial]
        batch, others = [trial], []
        most = TOGETHER_LEARNING if self.search.sampler == "optuna" else TOGETHER
        for _ in range(most - 1):
            following = self._next()
            if following is None:
                break
            if following[1]:
                batch.append(following[0])
            else:
                others.append(following)
        self._queue[:0] = others
        return batch

    def _next(self) -> tuple[Trial, bool] | None:
        if self._queue:
            return self._queue.pop(0)
        suggested = self.study.suggest()
        if suggested is None:
            return None
        trial, drawn = suggested
        self._records[trial.id] = TrialRecord(trial.id, trial.number, dict(trial.overrides), drawn=dict(drawn))
        return trial, self._head_only(trial)

    def _head_only(self, trial: Trial) -> bool:
        """Whether it may train beside others on the same features."""
        if trial.id in self._alone:
            return False
        try:
            method = trial.spec(self._bare).method
        except RequestError:
            return False
        return method.serves == "head" and not method.closed_form

    def _begin(self, trial: Trial) -> None:
        record = self._records[trial.id]
        record.status, record.attempts = "running", record.attempts + 1
        self.budget.began(trial.id)
        self._tell(record)

    # `trials.Coordinator`.

    def report(self, trial: str, report: Report) -> bool:
        """Write an evaluation down; whether the trial goes on."""
        with self._news:
            record = self._records[trial]
            if self.evicted.is_set():
                self.leave()
            if record.status != "running" or self.left:
                # No verdict: a trial that is told to stop would leave a checkpoint that says it was over.
                raise RunError("the search was left, or the trial given to another worker", where=trial)
            # A trial that began anew tells some evaluations again.
            record.reports = [known for known in record.reports if known["step"] < report.step]
            record.reports.append(asdict(report))
            record.seconds = report.seconds
            record.best = self._best(record)
            goes_on = self.study.report(trial, len(record.reports), report.metrics) and not self.over
            self._tell(record)
            self.search_store.write_trials(self.records(), at_once=False)
            return goes_on

    def _best(self, record: TrialRecord) -> dict[str, float] | None:
        """Metrics of its best evaluation."""
        score, best = self.spec.task.score, None
        for report in record.reports:
            value = report["metrics"].get(score.name)
            if value is not None and score.better(value, None if best is None else best[score.name]):
                best = report["metrics"]
        return None if best is None else dict(best)

    def reserve(self, trial: str, count: int) -> bool:
        """Whether a checkpoint of that many bytes may be written."""
        with self._lock:
            return not self.evicted.is_set() and self.budget.reserve(trial, count)

    def release(self, trial: str) -> None:
        """The room that was promised to what is no trial is free again."""
        with self._lock:
            self.budget.ended(trial)

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """A checkpoint is committed."""
        with self._lock:
            if not self.evicted.is_set():
                self.budget.saved(trial, prefix, count, score)

    def ended(self, trial: str, end: End) -> None:
        """Write down how a trial ended."""
        with self._news:
            record = self._records[trial]
            if record.status in OVER or self.left or self.evicted.is_set():
                return
            record.seconds = max(record.seconds, end.seconds)  # one that failed says nothing of its time
            for name in ("status", "error", "depth", "blocks", "trainable", "total", "together", "correct"):
                setattr(record, name, getattr(end, name))
            if record.status == "failed":
                record.best = None  # what diverged later is no result
            elif (better := self.budget.better(trial, record.best)) is not None:
                record.best = better  # its report was lost with a driver, its checkpoint was not
            self.budget.ended(trial, failed=record.status == "failed")
            self._checkpoints()
            self.study.ended(record)
            self.record.seconds = self.seconds
            self._tell(record)
            self.search_store.write_trials(self.records())
            self._news.notify_all()

    def emit(self, event: Event) -> None:
        """Pass progress on, a note once even if several workers send it.

        What is shared, and baselines, also go into the search's record.
        """
        with self._lock:
            if isinstance(event, Note):
                text = MEASURED.sub("", event.message)
                if text in self._notes:
                    return
                self._notes.add(text)
            elif isinstance(event, TrunkShared):
                self._share(asdict(event))
            elif isinstance(event, BaselinesMeasured):
                self.record.baselines |= event.baselines
                self.record.baseline_correct = event.correct or self.record.baseline_correct
            self._show(event)

    def _checkpoints(self) -> None:
        """What each ended trial still has."""
        for record in self._records.values():
            record.checkpoint = self.budget.of(record.id) if record.status in OVER else None

    def _share(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            before = self.record.shared.get(name, 0)
            add = number and name not in ("rows", "together") and isinstance(before, int | float)
            self.record.shared[name] = before + value if add else value
        shared = self.record.shared
        if {"rows", "computed", "reused"} <= shared.keys():
            # What one worker of this search computed, the next finds: that is nothing found from earlier runs.
            shared["reused"] = min(shared["reused"], max(0, shared["rows"] - shared["computed"]))

    def _tell(self, record: TrialRecord) -> None:
        states: list[str] = [known.status for known in self._records.values()]
        self._show(
            TrialUpdated(
                id=record.id,
                status=record.status,
                overrides=record.overrides,
                epoch=record.reports[-1]["epoch"] if record.reports else None,
                metrics=record.reports[-1]["metrics"] if record.reports else {},
                best=record.best,
                error=record.error,
                seconds=record.seconds,
                counts={state: states.count(state) for state in (*OVER, "running", "waiting")},
                trials=self.search.most,
                elapsed_s=self.seconds,
                left_s=self.left_s,
                leader=self._leader(),
            )
        )

    def _leader(self) -> dict[str, Any] | None:
        score = self.record.score
        ranked = best_first([record for record in self.records() if record.status != "failed"], score)
        if not ranked or ranked[0].best is None:
            return None
        return {"id": ranked[0].id, "overrides": ranked[0].overrides, score["name"]: ranked[0].best[score["name"]]}

    def _show(self, event: Event) -> None:
        if self._progress is None:
            return
        try:
            self._progress(event)
        except Exception as error:
            log.warning("progress could not be shown: %s", error)
