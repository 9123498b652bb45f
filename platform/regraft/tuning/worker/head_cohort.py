"""Head trials that are trained together, while each reports, stops, fails and writes checkpoints separately."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.bases.delta import canonical_name, live_tensors
from regraft.bases.tensor_files import read_tensors
from regraft.contracts import Record
from regraft.errors import Diverged
from regraft.spec.run import RunSpec
from regraft.training.evaluate import finite, packed
from regraft.training.harness import Harness
from regraft.training.job import RunState
from regraft.tuning.protocol import Coordinator, End, Report, Trial
from regraft.tuning.records import error_line
from regraft.tuning.worker.callbacks import EVERY_S, TrialCallbacks, TrialCheckpoint
from regraft.tuning.worker.stacked_heads import Head, HeadRows, Output, Stack
from regraft.tuning.worker.trial_errors import ends_worker

log = logging.getLogger(__name__)


@dataclass
class HeadTrial:
    """One trial of a cohort."""

    trial: Trial
    spec: RunSpec
    adapted: Adapted
    """Its model before the first step, shared by heads of one seed and changed by none."""
    head: Head
    callbacks: TrialCallbacks
    state: RunState = field(default_factory=RunState)
    best: TrialCheckpoint | None = None
    """Its best evaluation, until the checkpoint is written."""

    @cached_property
    def rest(self) -> dict[str, Tensor]:
        """The complete delta before the first step."""
        return live_tensors(self.adapted)

    @cached_property
    def names(self) -> dict[str, str]:
        """The delta's names of `weight` and `bias`."""
        linear, prefix = self.adapted.linear_head(), self.adapted.anatomy.prefix
        found = {id(tensor): name for name, tensor in linear.named_parameters()}
        return {
            found[id(tensor)]: canonical_name(name, prefix)
            for name, tensor in self.adapted.model.named_parameters()
            if id(tensor) in found
        }

    def snapshot(
        self, values: dict[str, Tensor], moments: dict[str, Tensor], metrics: dict[str, float]
    ) -> TrialCheckpoint:
        """Return a checkpoint of these values and optimizer moments."""
        names = self.names
        split = {key: key.partition("|") for key in moments}
        files = {
            "delta.safetensors": {**self.rest, **{names[name]: values[name] for name in values}},
            "optimizer.safetensors": {f"{names[split[key][0]]}|{split[key][2]}": moments[key] for key in moments},
        }
        return TrialCheckpoint(self.state.step, files, self.state.document(), metrics, self.state.best_correct)

    def write(self, checkpoint: TrialCheckpoint, *, live: bool) -> None:
        """Write a checkpoint; for a trial that is over with the state of its end."""
        state = checkpoint.state if live else self.state.document()
        self.callbacks.keep(replace(checkpoint, state=state, correct=self.state.best_correct), live=live)

    def restore(self, folder: Path) -> None:
        """Continue from the newest intact checkpoint, if there is one."""
        found = self.callbacks.checkpoints.latest(folder, lambda error: log.warning("%s", error))
        if found is None:
            return
        saved, files = found
        self.state = RunState.read((files / "state.json").read_bytes())
        self.callbacks.restore_best(self.state)
        self.callbacks.stopped = bool(saved.meta.get("stopped"))
        names = self.names
        delta = read_tensors(files / "delta.safetensors")
        device = self.head.weight.device
        self.head.weight = delta[names["weight"]].to(device)
        self.head.bias = delta[names["bias"]].to(device) if self.head.bias is not None else None
        self.head.step = self.state.step
        if (path := files / "optimizer.safetensors").exists():
            moments = read_tensors(path)
            self.head.moments = {
                f"{name}|{key.rpartition('|')[2]}": value.to(device)
                for name, full in names.items()
                for key, value in moments.items()
                if key.rpartition("|")[0] == full
            }


class HeadCohort:
    """A group of heads that are trained together, from their first step to their ends."""

    def __init__(
        self,
        trials: Sequence[HeadTrial],
        rows: tuple[HeadRows, HeadRows],
        output: Output,
        coordinator: Coordinator,
    ) -> None:
        """`rows` are the training and the evaluation rows; `output` wraps logits as the model's output."""
        self.count = len(trials)
        self._train, self._held = rows
        self._output, self._coordinator = output, coordinator
        self._of = {id(one.head): one for one in trials}
        self._task = trials[0].spec.task
        self._stack = Stack([one.head for one in trials], self._train, self._task, output)
        self._mark = time.monotonic()

    @property
    def open(self) -> list[HeadTrial]:
        """Trials that are not over."""
        return [self._of[id(head)] for head in self._stack.heads]

    def run(self, harness: Harness) -> None:
        """Train until every head is over; after a stop notice, write a checkpoint of each."""
        rows = len(self._train.features)
        while self._stack.heads:
            self._stack.step()
            due = [at for at, head in enumerate(self._stack.heads) if _is_due(head, rows)]
            if due:
                self.pause(due)
            harness.pulse.beat()
            if harness.notice:
                self.disband()
                return

    def disband(self) -> None:
        """Write a checkpoint of every open head, from which it may continue alone."""
        for at, one in enumerate(self.open):
            one.state.step = one.head.step
            self._save_last(one, at)
            one.callbacks.close()

    def pause(self, due: Sequence[int]) -> None:
        """Evaluate the heads at the positions `due`, report, and remove those that are over."""
        self._share_time()
        logits = self._stack.logits(self._held.features, due)
        over: list[tuple[int, End | None]] = []
        for place, at in enumerate(due):
            one = self._of[id(self._stack.heads[at])]
            try:
                if self._evaluate(one, at, logits[place]):
                    if one.best is not None:
                        one.write(one.best, live=False)
                    over.append((at, None))
                elif time.monotonic() - one.callbacks.last >= EVERY_S:
                    self._save_last(one, at)
            except Exception as error:
                if ends_worker(error):
                    raise
                log.info("trial %s", one.trial.id, exc_info=True)
                over.append((at, End("failed", one.state.seconds, error=error_line(error), together=self.count)))
        self._share_time()
        for at, end in over:
            one = self._of[id(self._stack.heads[at])]
            one.callbacks.close()
            done = end or one.callbacks.end(one.adapted, one.state.seconds, together=self.count)
            self._coordinator.ended(one.trial.id, done)
        self._stack.leave(at for at, _ in over)

    def _save_last(self, one: HeadTrial, at: int) -> None:
        """Write a checkpoint to go on from, after the best one if that is another and not written yet."""
        if one.best is not None:
            one.write(one.best, live=True)
            if one.best.step == one.state.step:
                one.best = None
                return
            one.best = None
        one.write(one.snapshot(*self._stack.taken(at), {}), live=True)

    def _evaluate(self, one: HeadTrial, at: int, logits: Tensor) -> bool:
        """Evaluate one head by its logits, report the metrics, and return whether the trial is over."""
        norm = float(self._stack.norms[at])
        if norm != norm or norm == float("inf"):
            raise Diverged(
                f"the gradient's norm is {norm}: lower training.lr, or raise the warm-up", where=f"step {one.head.step}"
            )
        records = self._records(one, logits)
        metrics = self._task.metrics(records, one.head.context)
        state, rows = one.state, len(self._train.features)
        state.step = one.head.step
        last = state.step >= one.head.steps(rows)
        patience = one.spec.training.early_stopping
        if state.judge(metrics, self._task.score, patience=patience, last=last):
            state.best_correct = packed(records)
            one.best = one.snapshot(*self._stack.taken(at), dict(metrics))
        epoch = state.step / one.head.per_epoch(rows)
        goes_on = self._coordinator.report(one.trial.id, Report(state.step, epoch, metrics, state.seconds))
        one.callbacks.stopped = not goes_on and not state.finished
        state.finished = state.finished or one.callbacks.stopped
        return state.finished

    def _records(self, one: HeadTrial, logits: Tensor) -> list[Record]:
        with torch.inference_mode():
            batch = {"labels": self._held.labels}
            records = self._task.records(self._output(logits), batch, one.head.context)
        if not all(map(finite, records)):
            raise Diverged(
                "the model answers evaluation rows with what is not a number: lower training.lr, or raise the warm-up"
            )
        return records

    def _share_time(self) -> None:
        """Add the time since the last call to the open trials, in equal shares."""
        now = time.monotonic()
        for one in self.open:
            one.state.seconds += (now - self._mark) / len(self._stack.heads)
        self._mark = now


def _is_due(head: Head, rows: int) -> bool:
    """Return whether the head is evaluated after its last step."""
    every = head.training.eval_steps or head.per_epoch(rows)
    return head.step % every == 0 or head.step == head.steps(rows)
