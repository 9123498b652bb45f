"""The coordinator of a search: it hands out trials, records their results, and decides which continue."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from regraft.contracts import BaselinesMeasured, Event, Note, TrialUpdated, TrunkShared
from regraft.errors import RunError
from regraft.training.stop_signals import StopNotice
from regraft.tuning.driver.checkpoint_budget import CheckpointBudget
from regraft.tuning.driver.prepare import PreparedSearch
from regraft.tuning.driver.trial_queue import TrialQueue
from regraft.tuning.protocol import End, Report, Trial
from regraft.tuning.records import OVER, TrialRecord, best_first
from regraft.tuning.study import Study

log = logging.getLogger(__name__)
MEASURED = re.compile(r"[\d.e+-]+ (?:ms|[kMGT]?B)\b")
"""Measured values, which differ between two workers' notes on the same fact."""


class SearchCoordinator:
    """The driver's `protocol.Coordinator`. Every method may be called from any thread.

    `take` hands out trials, and waits while more may come later; a trial whose worker died is handed out again.
    """

    def __init__(
        self, prepared: PreparedSearch, records: Sequence[TrialRecord], study: Study, budget: CheckpointBudget
    ) -> None:
        self.spec, self.record, self.search_store = prepared.spec, prepared.record, prepared.search_store
        self.search, self.study, self.budget = prepared.spec.searched(), study, budget
        self._progress = prepared.progress
        self._records = {record.id: record for record in records}
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._queue = TrialQueue(prepared.spec, study, self._add)
        self._notes: set[str] = set()
        self._started = time.monotonic()
        self._elapsed_before = self.record.seconds
        self.notice = StopNotice()
        """Asks every worker to end with a checkpoint after the step under way."""
        self.left = False
        """Whether the driver is leaving: reports no longer count, and no new trial begins."""
        self.evicted = threading.Event()
        """Set when another driver has taken the search over; this one then writes no documents any more."""
        for known in self.records():
            if known.status not in OVER:
                known.attempts = 0  # the driver died, which is not a failure of the trial
                self._requeue(known)

    def records(self) -> list[TrialRecord]:
        """Return every trial, by number."""
        return sorted(self._records.values(), key=lambda record: record.number)

    @property
    def seconds(self) -> float:
        """Wall time over all attempts."""
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def left_s(self) -> float | None:
        """Seconds left of the budget; None without one."""
        return None if self.search.seconds is None else self.search.seconds - self.seconds

    @property
    def over(self) -> bool:
        """True if no new trial may begin."""
        return self.left or bool(self.notice) or self.overtime_s > 0

    @property
    def overtime_s(self) -> float:
        """Seconds since the budget was used up; 0 before, and without one."""
        return 0.0 if self.left_s is None else max(0.0, -self.left_s)

    # For the driver: handing out trials.

    def take(self, wait_s: float = 0.5) -> list[Trial] | None:
        """Return trials for one worker, an empty list if there are none at the moment, None if no more will come.

        Trials that only train a head come together.
        """
        with self._news:
            if self.over:
                return None
            if batch := self._queue.batch():
                for trial in batch:
                    self._begin(trial)
                self.search_store.write_trials(self.records(), at_once=False)
                return batch
            if not any(record.status == "running" for record in self._records.values()):
                return None
            self._news.wait(wait_s)
            return []

    def lost(self, batch: Sequence[Trial], why: str, *, blame: bool = True) -> None:
        """Requeue the unfinished trials of a dead worker in separate batches; a trial fails after too many deaths.

        Without `blame`, the worker died before it began with them, and the attempt does not count.
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
                self._requeue(record)
            if not self.left:
                self.search_store.write_trials(self.records())
            self._news.notify_all()

    def failed(self, batch: Sequence[Trial], why: str) -> None:
        """Fail the trial of a batch that raised an error. Several trials are requeued in separate batches."""
        with self._news:
            if self.left:
                return
            open_ = [trial for trial in batch if self._records[trial.id].status not in OVER]
            for trial in open_:
                if len(open_) == 1:
                    self.ended(trial.id, End("failed", self._records[trial.id].seconds, error=why))
                else:
                    self._requeue(self._records[trial.id])
            self._news.notify_all()

    def leave(self) -> None:
        """Stop handing out trials, and leave the running ones to the next driver."""
        with self._news:
            if self.left:
                return
            self.left = True
            for record in self._records.values():
                if record.status not in OVER:
                    self._requeue(record)
            self._news.notify_all()

    def release(self, trial: str) -> None:
        """Release the space reserved for the baseline run, which is not a trial."""
        with self._lock:
            self.budget.ended(trial)

    def _requeue(self, record: TrialRecord) -> None:
        """Put a trial back into the queue, alone after its first attempt. A checkpoint may continue it."""
        record.status, record.checkpoint = "waiting", None
        self._queue.put(Trial(record.number, record.overrides), apart=record.attempts > 0)

    def _add(self, trial: Trial, drawn: Mapping[str, Any]) -> None:
        self._records[trial.id] = TrialRecord(trial.id, trial.number, dict(trial.overrides), drawn=dict(drawn))

    def _begin(self, trial: Trial) -> None:
        record = self._records[trial.id]
        record.status, record.attempts = "running", record.attempts + 1
        self.budget.began(trial.id)
        self._emit_state(record)

    # For workers: `protocol.Coordinator`.

    def report(self, trial: str, report: Report) -> bool:
        """Record an evaluation and return whether the trial continues."""
        with self._news:
            record = self._records[trial]
            if self.evicted.is_set():
                self.leave()
            if record.status != "running" or self.left:
                # An error instead of a decision: a stopped trial would leave a checkpoint that says it was over.
                raise RunError("the search was left, or the trial given to another worker", where=trial)
            # A trial that began again repeats some evaluations.
            record.reports = [known for known in record.reports if known["step"] < report.step]
            record.reports.append(asdict(report))
            record.seconds = report.seconds
            record.best = self._best(record)
            goes_on = self.study.report(trial, len(record.reports), report.metrics) and self.overtime_s <= 0
            self._emit_state(record)
            self.search_store.write_trials(self.records(), at_once=False)
            return goes_on

    def reserve(self, trial: str, count: int) -> bool:
        """Return whether a checkpoint of `count` bytes may be written."""
        with self._lock:
            return not self.evicted.is_set() and self.budget.reserve(trial, count)

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """Record a committed checkpoint."""
        with self._lock:
            if not self.evicted.is_set():
                self.budget.saved(trial, prefix, count, score)

    def ended(self, trial: str, end: End) -> None:
        """Record how a trial ended."""
        with self._news:
            record = self._records[trial]
            if record.status in OVER or self.left or self.evicted.is_set():
                return
            record.seconds = max(record.seconds, end.seconds)  # a failed trial does not report its time
            for name in ("status", "error", "depth", "blocks", "trainable", "total", "together", "correct"):
                setattr(record, name, getattr(end, name))
            if record.status == "failed":
                record.best = None  # a trial that diverged has no result
            elif (better := self.budget.better(trial, record.best)) is not None:
                record.best = better  # its report was lost with a driver, its checkpoint was not
            self.budget.ended(trial, failed=record.status == "failed")
            self._update_checkpoints()
            self.study.ended(record)
            self.record.seconds = self.seconds
            self._emit_state(record)
            self.search_store.write_trials(self.records())
            self._news.notify_all()

    def emit(self, event: Event) -> None:
        """Pass a progress event on; the same note of several workers only once.

        Shared outputs and baselines are also added to the search's record.
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
                self.record.add_baselines(event.baselines, event.correct, event.base)
            self._show(event)

    def _best(self, record: TrialRecord) -> dict[str, float] | None:
        """Return the metrics of a trial's best evaluation."""
        score, best = self.spec.task.score, None
        for report in record.reports:
            value = report["metrics"].get(score.name)
            if value is not None and score.better(value, None if best is None else best[score.name]):
                best = report["metrics"]
        return None if best is None else dict(best)

    def _update_checkpoints(self) -> None:
        """Set each ended trial's checkpoint to what the budget still retains."""
        for record in self._records.values():
            record.checkpoint = self.budget.best_of(record.id) if record.status in OVER else None

    def _share(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            before = self.record.shared.get(name, 0)
            add = number and name not in ("rows", "together") and isinstance(before, int | float)
            self.record.shared[name] = before + value if add else value
        shared = self.record.shared
        if {"rows", "computed", "reused"} <= shared.keys():
            # Rows computed by one worker of this search and found by the next do not count as reused.
            rows = shared["rows"] * max(1, len(self.record.bases))
            shared["reused"] = min(shared["reused"], max(0, rows - shared["computed"]))

    def _emit_state(self, record: TrialRecord) -> None:
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
