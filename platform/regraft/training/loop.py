"""The training loop, told in order: build, restore, step, evaluate, checkpoint, end."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import canonical_name, live_tensors
from regraft.bases.locate import Base
from regraft.contracts import Batch, Context, EvaluationDone, Note, Stepped
from regraft.data.sampler import batches, batches_per_epoch, position, share, total_steps
from regraft.data.snapshot import Snapshot, open_snapshot
from regraft.errors import Diverged
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore, open_store
from regraft.store.runs import Runs
from regraft.training.baselines import measure_baselines
from regraft.training.callbacks import Keeper, RunKeeper
from regraft.training.class_weights import class_weights
from regraft.training.closed_form import fit_closed_form
from regraft.training.distribute import distribute, make_accelerator
from regraft.training.evaluate import encoded, evaluate, packed
from regraft.training.harness import Harness
from regraft.training.job import Job, State
from regraft.training.memory_check import room_for_steps, room_for_weights, told_when_it_runs_out
from regraft.training.optimizer import build_optimizer, optimizer_tensors, parameter_groups, schedule, set_learning_rate
from regraft.training.prepare import base_of
from regraft.training.resume import restore
from regraft.training.step import StepModule, Stepper

LOG_LINES = 500
"""How many step lines a whole run leaves in metrics.jsonl, at most."""


def fit(job: Job, harness: Harness) -> State:
    """Train a job to its end on this rank; continues from the newest whole checkpoint in the store.

    The state is not `finished` when a rank had notice to leave: what was trained until then is in a checkpoint.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    spec = job.resolved()
    store = open_store(spec.store)
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder, told_when_it_runs_out(spec):
        snapshot = open_snapshot(store, job.fingerprint)
        base = base_of(spec, job)
        room_for_weights(base, harness)
        adapted = build(spec, job, snapshot, harness, base)
        room_for_steps(spec, adapted, harness)
        measure_baselines(spec, job, adapted, snapshot, harness, Runs(store))
        run = Run(spec, job, store, snapshot, adapted, harness, Path(folder))
        if spec.method.closed_form:
            fit_closed_form(run)
        else:
            run.train()
        return run.state


def build(spec: RunSpec, job: Job, snapshot: Snapshot, harness: Harness, base: Base, processor: Any = None) -> Adapted:
    """The adapted model before its first step; `processor` is the base's, where it is loaded already."""
    training = spec.training
    adapted = adapt(
        base,
        Adaptation(task=spec.task, method=spec.method, labels=job.labels, seed=training.seed, dropout=training.dropout),
        processor=processor,
    )
    adapted.context = options(adapted.context, spec, job.labels, snapshot, harness)
    return adapted


def options(context: Context, spec: RunSpec, labels: tuple[str, ...], snapshot: Snapshot, harness: Harness) -> Context:
    """The context with what the spec says of the loss and of the rows."""
    weights = class_weights(spec.training.class_weights, labels, snapshot.train, spec.task)
    return replace(
        context,
        class_weights=None if weights is None else weights.to(harness.device),
        label_smoothing=spec.training.label_smoothing,
        augment=spec.data.augment,
    )


class Run:
    """One rank's side of a run: the parts that the steps share."""

    def __init__(
        self,
        spec: RunSpec,
        job: Job,
        store: ObjectStore,
        snapshot: Snapshot,
        adapted: Adapted,
        harness: Harness,
        folder: Path,
        keeper: Keeper | None = None,
    ) -> None:
        """`keeper` is told how the run goes and keeps what it leaves; by default that of a run by itself."""
        self.spec, self.job, self.snapshot, self.adapted, self.harness = spec, job, snapshot, adapted, harness
        self.folder, self.store = folder, store
        self.state = State()
        self.keeper = keeper or RunKeeper(spec, job, store, harness, folder)
        self.checkpoints = self.keeper.checkpoints
        self.accelerator = make_accelerator(spec.compute, harness)
        # Loss terms are built on the base's values, before a checkpoint is read into the model.
        # They draw from a seed of their own: whether baselines were measured before in this process must not matter.
        torch.manual_seed(spec.training.seed)
        terms = [(loss.weight, loss.build(adapted.model, adapted.anatomy)) for loss in spec.losses]
        self.module = StepModule(adapted, terms)
        self.wrapped = distribute(self.module, adapted, spec.compute, self.accelerator, harness)
        named = [*adapted.model.named_parameters(), *self.module.terms.named_parameters(prefix="terms")]
        groups = parameter_groups(named, adapted.anatomy, spec.training)
        self.optimizer = build_optimizer(groups, spec.training)
        prefix = adapted.anatomy.prefix
        self.names = {
            p: canonical_name(name, prefix) for name, p in adapted.model.named_parameters() if p.requires_grad
        }
        self.names |= {p: f"terms.{name}" for name, p in self.module.terms.named_parameters()}

    @property
    def per_epoch(self) -> int:
        """Steps per pass over the training rows."""
        return batches_per_epoch(len(self.snapshot.train), self.spec.training.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        training = self.spec.training
        return total_steps(len(self.snapshot.train), training.batch_size, training.epochs, training.steps)

    @property
    def stride(self) -> int:
        """Steps between two lines of the log, where the loss is read anyway."""
        return max(1, -(-self.steps // LOG_LINES))

    def train(self) -> None:
        """From the newest checkpoint to the last step."""
        training = self.spec.training
        if self.resumed_at_its_end():
            return
        self.keeper.begins(self)
        stepper = Stepper(
            self.wrapped, self.optimizer, self.accelerator, self.harness, seed=training.seed, clip=training.clip
        )
        began, first, before = time.monotonic(), self.state.step, self.state.seconds
        self.adapted.train_mode()
        try:
            for number, rows, micros in self.work(first):
                progress = number / max(1, self.steps - 1)
                rate = set_learning_rate(self.optimizer, schedule(number, self.steps, training))
                loss, norm = stepper.step(number, micros, progress)
                self.harness.consumed(number, rows)
                self.state.step = number + 1
                self.state.seconds = before + time.monotonic() - began
                self.note_step(loss, norm, rate, (number + 1 - first) / (time.monotonic() - began))
                leaving = stepper.told_to_leave
                if (leaving or self.due()) and (not self.pause(loss, norm, began - before) or leaving):
                    break
        finally:
            self.keeper.close()

    def resumed_at_its_end(self) -> bool:
        """Continue from the newest checkpoint; True when it is the run's last, and nothing is left to train."""
        restore(self)
        if self.state.finished:
            self.keeper.was_over(self)
            self.keeper.close()
        return self.state.finished

    def work(self, first: int) -> Iterator[tuple[int, np.ndarray, list[tuple[Batch, bool]]]]:
        """Each step's number, its rows over all ranks, and this rank's micro-batches, with whether rows are real."""
        training, rows = self.spec.training, self.snapshot.train
        bucketing = training.bucketing and "bucketing" in self.spec.task.supports
        epoch, plan = -1, []
        for number in range(first, self.steps):
            now, index = position(number, self.per_epoch)
            if now != epoch:
                epoch, plan = now, batches(training.seed, now, rows.lengths, training.batch_size, bucketing)
            key = (training.seed, epoch)
            parts = share(plan[index], self.harness.rank, self.harness.world, training.accumulation)
            micros = [
                (
                    encoded(self.adapted, rows, part if len(part) else plan[index][:1], train=True, key=key),
                    len(part) > 0,
                )
                for part in parts
            ]
            yield number, plan[index], micros

    def due(self) -> bool:
        """Whether to evaluate or checkpoint after this step."""
        every = self.spec.training.checkpoint_steps
        return self.evaluates() or bool(every and self.state.step % every == 0)

    def evaluates(self) -> bool:
        """Whether this step ends an epoch, an `eval_steps` stretch or the run."""
        step, every = self.state.step, self.spec.training.eval_steps or self.per_epoch
        return step % every == 0 or step == self.steps

    def pause(self, loss: torch.Tensor, norm: torch.Tensor, began: float) -> bool:
        """Between two steps: evaluate if due, then checkpoint; whether the run goes on. `began` is the monotonic time
        at which it would have begun, had it run without interruption."""
        # Checked before anything is stored, so that a checkpoint never holds what is not a number.
        self.check(loss, norm)
        metrics = self.evaluate() if self.evaluates() else None
        self.state.seconds = time.monotonic() - began
        return self.keeper.paused(self, metrics) and not self.state.finished

    def evaluate(self) -> dict[str, float]:
        """Metrics on the evaluation rows; moves best, staleness and the end of the run."""
        size = max(32, self.spec.training.batch_size)
        metrics, records = evaluate(
            self.adapted, self.snapshot.eval, self.harness, size=size, autocast=self.accelerator.autocast()
        )
        self.adapted.train_mode()
        state, patience, last = self.state, self.spec.training.early_stopping, self.state.step >= self.steps
        if best := state.judge(metrics, self.spec.task.score, patience=patience, last=last):
            state.best_correct = packed(records)
        epoch = state.step / self.per_epoch
        state.log.append({"step": state.step, "epoch": epoch, **{f"eval_{k}": v for k, v in metrics.items()}})
        self.harness.emit(EvaluationDone(state.step, epoch, metrics, best))
        if state.finished and not last:
            self.harness.emit(Note(f"stopped early: {patience} evaluations without improvement"))
        return metrics

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """The live tensors of a checkpoint, by the file that holds them."""
        terms = {f"terms.{name}": value for name, value in self.module.terms.state_dict().items()}
        return {
            "delta.safetensors": live_tensors(self.adapted),
            "optimizer.safetensors": {**optimizer_tensors(self.optimizer, self.names), **terms},
        }

    def note_step(self, loss: torch.Tensor, norm: torch.Tensor, rate: float, steps_a_second: float) -> None:
        """A line for metrics.jsonl and the screen, now and then: reading a loss waits for the device."""
        step, every = self.state.step, self.stride
        if step % every and step != self.steps:
            return
        value = self.check(loss, norm)
        size = norm.item()
        # fp16 skips a step whose gradient overflows; JSON knows no infinity.
        seen = {"norm": size} if math.isfinite(size) else {}
        epoch = step / self.per_epoch
        self.state.log.append({"step": step, "epoch": epoch, "loss": value, **seen, "lr": rate})
        self.harness.emit(
            Stepped(
                step=step,
                epoch=epoch,
                loss=value,
                norm=seen.get("norm"),
                lr=rate,
                steps=self.steps,
                rows_per_second=steps_a_second * self.spec.training.batch_size,
                left_s=(self.steps - step) / steps_a_second,
            )
        )

    def check(self, loss: torch.Tensor, norm: torch.Tensor) -> float:
        """The loss as a number; Diverged when it, or the gradient, is none."""
        value = loss.item()
        scaled = self.accelerator.scaler is not None
        if not math.isfinite(value) or (not scaled and not torch.isfinite(norm)):
            raise Diverged(
                f"the loss is {value} and the gradient's norm {norm.item()}: lower training.lr, or raise the warm-up",
                where=f"step {self.state.step}",
            )
        return value
