"""What a trial leaves behind: reports to the desk, and checkpoints where there is room for them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regraft.contracts import Score
from regraft.store.checkpoints import Checkpoints, ranked
from regraft.store.objects import ObjectStore
from regraft.training.checkpoint_writer import CheckpointWriter
from regraft.training.job import Job, RunState
from regraft.training.run import Run
from regraft.training.safetensors_buffer import encode_header
from regraft.training.step import scaler_state
from regraft.tuning.protocol import Coordinator, Report

EVERY_S = 15.0
"""A live trial that does not improve leaves a checkpoint so often: a worker that dies loses at most that."""


@dataclass(frozen=True)
class Best:
    """A trial's best checkpoint."""

    prefix: str
    score: float
    correct: str = ""


class TrialCallbacks:
    """Keeps one trial: an evaluation is reported first, so that a checkpoint is written for what goes on or is best."""

    def __init__(self, trial: str, store: ObjectStore, job: Job, coordinator: Coordinator, score: Score) -> None:
        self.trial, self.job, self.coordinator, self.score = trial, job, coordinator, score
        self.checkpoints = trial_checkpoints(store, job.run)
        self.best: Best | None = None
        self.stopped = False
        self._writer = CheckpointWriter(self.checkpoints, None)
        self._pending: tuple[int, float | None, str] | None = None
        self._prefix = ""
        self.last = time.monotonic()

    def on_start(self, run: Run) -> None:
        """A trial that goes on after its worker died knows its best checkpoint."""
        if run.state.step:
            self.look(run.state)

    def on_already_finished(self, run: Run) -> None:
        """It had ended, and only that was not told."""
        self.look(run.state)
        self.stopped = any(
            saved.step == run.state.step and saved.meta.get("stopped") for saved in self.checkpoints.sound()
        )

    def look(self, state: RunState) -> None:
        """Find the best checkpoint of an earlier attempt."""
        for saved in ranked(self.checkpoints.sound(), self.score.name, self.score.mode)[:1]:
            self.best = Best(saved.prefix, float(saved.meta["metrics"][self.score.name]), state.best_correct)

    def on_pause(self, run: Run, metrics: Mapping[str, float] | None) -> bool:
        """Report, then checkpoint what is best, or may go on and has not left one for a while."""
        state, goes_on, best = run.state, True, False
        if metrics is not None:
            best = state.stale == 0
            goes_on = self.coordinator.report(
                self.trial, Report(state.step, state.step / run.per_epoch, metrics, state.seconds)
            )
            self.stopped = not goes_on and not state.finished
            state.finished = state.finished or self.stopped
        if best or (not state.finished and time.monotonic() - self.last >= EVERY_S):
            state.scaler = scaler_state(run.accelerator)
            tensors = run.tensors()
            self.keep(
                state.step, tensors, state.document(), metrics, live=not state.finished, correct=state.best_correct
            )
        return goes_on

    def keep(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        metrics: Mapping[str, float] | None,
        *,
        live: bool,
        correct: str,
    ) -> None:
        """Write a checkpoint, if the search has room for it; without the optimizer when no step follows."""
        self.settle()
        files = {name: live_ for name, live_ in tensors.items() if live or name == "delta.safetensors"}
        count = sum(len(head) + size for head, size in map(encode_header, files.values()))
        if not self.coordinator.reserve(self.trial, count):
            return
        meta = {"base": self.job.base_hash, "metrics": dict(metrics or {}), "stopped": self.stopped}
        self._pending = count, (metrics or {}).get(self.score.name), correct
        self._writer.save(step, files, state, meta=meta, then=lambda saved: setattr(self, "_prefix", saved.prefix))
        self.last = time.monotonic()

    def settle(self) -> None:
        """Wait for the checkpoint under way, and tell of it."""
        self._writer.wait()
        if self._pending is None:
            return
        (count, score, correct), self._pending = self._pending, None
        self.coordinator.saved(self.trial, self._prefix, count, score)
        if score is not None and (self.best is None or self.score.better(score, self.best.score)):
            self.best = Best(self._prefix, score, correct)

    def close(self) -> None:
        """Drain."""
        try:
            self.settle()
        finally:
            self._writer.close()

    def drop(self) -> None:
        """End without telling anybody: the worker is at an end."""
        with suppress(Exception):
            self._writer.close()


def trial_checkpoints(store: ObjectStore, run: str) -> Checkpoints:
    """The checkpoints of the trial that `<search>/<trial>` names."""
    search, _, trial = run.rpartition("/")
    return Checkpoints.of_trial(store, search, trial)
