"""The callbacks of a trial: reports to the coordinator, and checkpoints within the search's budget."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Score
from regraft.store.checkpoints import Checkpoints, ranked
from regraft.training.checkpoint_writer import CheckpointWriter
from regraft.training.job import RunState
from regraft.training.run import Run
from regraft.training.safetensors_buffer import encode_header
from regraft.training.step import scaler_state
from regraft.tuning.protocol import Coordinator, End, Report

EVERY_S = 15.0
"""Seconds between the checkpoints of a live trial that does not improve: the most that a dead worker loses."""


@dataclass(frozen=True)
class BestCheckpoint:
    """A trial's best checkpoint."""

    prefix: str
    score: float
    correct: str = ""


@dataclass(frozen=True)
class TrialCheckpoint:
    """The contents of a checkpoint that is to be written."""

    step: int
    files: Mapping[str, Mapping[str, Tensor]]
    """The tensors of each file."""
    state: Mapping[str, Any]
    """The document of the `RunState`."""
    metrics: Mapping[str, float]
    correct: str
    """The evaluation rows that were predicted correctly."""


class TrialCallbacks:
    """Callbacks of one trial.

    An evaluation is reported before a checkpoint is written, so that only trials that continue, or are best, write one.
    """

    def __init__(
        self, trial: str, checkpoints: Checkpoints, coordinator: Coordinator, *, base_hash: str, score: Score
    ) -> None:
        self.trial, self.checkpoints, self.coordinator, self.score = trial, checkpoints, coordinator, score
        self.best: BestCheckpoint | None = None
        self.stopped = False
        self._base_hash = base_hash
        self._writer = CheckpointWriter(self.checkpoints, None)
        self._pending: tuple[int, float | None, str] | None = None
        self._prefix = ""
        self.last = time.monotonic()

    def on_start(self, run: Run) -> None:
        """Find the best checkpoint of a trial that continues after its worker died."""
        if run.state.step:
            self.restore_best(run.state)

    def on_already_finished(self, run: Run) -> None:
        """Find how a trial ended whose end was not reported."""
        self.restore_best(run.state)
        self.stopped = any(
            saved.step == run.state.step and saved.meta.get("stopped") for saved in self.checkpoints.valid()
        )

    def restore_best(self, state: RunState) -> None:
        """Find the best checkpoint of an earlier attempt."""
        for saved in ranked(self.checkpoints.valid(), self.score.name, self.score.mode)[:1]:
            self.best = BestCheckpoint(saved.prefix, float(saved.meta["metrics"][self.score.name]), state.best_correct)

    def on_pause(self, run: Run, metrics: Mapping[str, float] | None) -> bool:
        """Report an evaluation; write a checkpoint if it is the best, if the last is EVERY_S old, or before a stop."""
        state, goes_on, best = run.state, True, False
        if metrics is not None:
            best = state.stale == 0
            goes_on = self.coordinator.report(
                self.trial, Report(state.step, state.step / run.per_epoch, metrics, state.seconds)
            )
            self.stopped = not goes_on and not state.finished
            state.finished = state.finished or self.stopped
        due = bool(run.harness.notice) or time.monotonic() - self.last >= EVERY_S
        if best or (not state.finished and due):
            state.scaler = scaler_state(run.accelerator)
            tensors = run.tensors()
            checkpoint = TrialCheckpoint(state.step, tensors, state.document(), dict(metrics or {}), state.best_correct)
            self.keep(checkpoint, live=not state.finished)
        return goes_on

    def keep(self, checkpoint: TrialCheckpoint, *, live: bool) -> None:
        """Write a checkpoint if the search has space for it; without the optimizer if no step follows."""
        self.settle()
        files = {name: tensors for name, tensors in checkpoint.files.items() if live or name == "delta.safetensors"}
        count = sum(len(head) + size for head, size in map(encode_header, files.values()))
        if not self.coordinator.reserve(self.trial, count):
            return
        meta = {"base": self._base_hash, "metrics": dict(checkpoint.metrics), "stopped": self.stopped}
        self._pending = count, checkpoint.metrics.get(self.score.name), checkpoint.correct
        self._writer.save(
            checkpoint.step,
            files,
            checkpoint.state,
            meta=meta,
            then=lambda saved: setattr(self, "_prefix", saved.prefix),
        )
        self.last = time.monotonic()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, and report it."""
        self._writer.wait()
        if self._pending is None:
            return
        (count, score, correct), self._pending = self._pending, None
        self.coordinator.saved(self.trial, self._prefix, count, score)
        if score is not None and (self.best is None or self.score.better(score, self.best.score)):
            self.best = BestCheckpoint(self._prefix, score, correct)

    def end(self, adapted: Adapted, seconds: float, *, together: int = 1) -> End:
        """Return the end of a trial that did not fail."""
        anatomy, parameters = adapted.anatomy, list(adapted.model.parameters())
        return End(
            "stopped" if self.stopped else "finished",
            seconds,
            self.best.prefix if self.best else None,
            depth=adapted.method.depth_of(anatomy),
            blocks=len(anatomy.blocks),
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            total=sum(p.numel() for p in parameters),
            together=together,
            correct=self.best.correct if self.best else "",
        )

    def close(self) -> None:
        """Wait for the last checkpoint, report it, and end the writer."""
        try:
            self.settle()
        finally:
            self._writer.close()

    def abandon(self) -> None:
        """End the writer without a report, because the worker is ending."""
        with suppress(Exception):
            self._writer.close()
