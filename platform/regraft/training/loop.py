"""The training loop, told in order: build, restore, step, evaluate, checkpoint, end."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from regraft.bases.adapt import Adapted, adapt
from regraft.bases.delta import canonical, live_tensors
from regraft.bases.locate import locate
from regraft.contracts import Batch
from regraft.data.sampler import batches, batches_per_epoch, position, share, total_steps
from regraft.data.snapshot import Snapshot, open_snapshot
from regraft.errors import Diverged, WrongBase
from regraft.spec import RunSpec
from regraft.store.checkpoints import Checkpoints, Retention
from regraft.store.objects import ObjectStore, open_store
from regraft.store.runs import Runs
from regraft.training.baselines import measure_baselines
from regraft.training.closed_form import fit_closed_form
from regraft.training.evaluate import encoded, evaluate, packed
from regraft.training.frozen import keep_trunk
from regraft.training.harness import Harness
from regraft.training.job import Job, State
from regraft.training.memory import room_for_steps, room_for_weights, told_when_it_runs_out
from regraft.training.optimizer import build_optimizer, optimizer_tensors, parameter_groups, schedule, set_learning_rate
from regraft.training.resume import restore
from regraft.training.saver import Saver
from regraft.training.stepping import StepModule, Stepper, distribute, make_accelerator, scaler_state
from regraft.training.stopping import Stopping
from regraft.training.tensorfile import take_part
from regraft.training.tracking import Tracker
from regraft.training.weights import class_weights

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
        adapted = build(spec, job, snapshot, harness)
        measure_baselines(spec, job, adapted, snapshot, harness, Runs(store))
        run = Run(spec, job, store, snapshot, adapted, harness, Path(folder))
        if spec.method.closed_form:
            fit_closed_form(run)
        else:
            run.train()
        return run.state


def build(spec: RunSpec, job: Job, snapshot: Snapshot, harness: Harness) -> Adapted:
    """The adapted model before its first step, on the very base that the job names, with room left to train it."""
    base = locate(spec.base)
    if base.hash != job.base_hash:
        raise WrongBase(f"{spec.base} has hash {base.hash[:12]} here; the run began with {job.base_hash[:12]}", "base")
    room_for_weights(base, harness)
    training = spec.training
    adapted = adapt(spec.task, spec.method, base, labels=job.labels, seed=training.seed, dropout=training.dropout)
    weights = class_weights(training.class_weights, job.labels, snapshot.train, spec.task)
    weights = None if weights is None else weights.to(harness.device)
    adapted.context = replace(
        adapted.context,
        class_weights=weights,
        label_smoothing=training.label_smoothing,
        augment=spec.data.augment,
    )
    room_for_steps(spec, adapted, harness)
    return adapted


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
    ) -> None:
        self.spec, self.job, self.snapshot, self.adapted, self.harness = spec, job, snapshot, adapted, harness
        self.folder = folder
        self.state = State()
        self.runs = Runs(store)
        self.checkpoints = Checkpoints(store, job.run)
        self.tracker = Tracker(store, job.run, folder / "tensorboard", write=harness.first)
        self.stopping = Stopping(self.runs, job.run, harness, every=self.stride)
        score = spec.task.score
        # Two last ones: should the newest be damaged, a resume has one to fall back on.
        retention = Retention(best=spec.training.keep, last=2, metric=score.name, mode=score.mode)
        self.saver = Saver(self.checkpoints, retention, pinned=harness.device.type == "cuda")
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
        self.names = {p: canonical(name, prefix) for name, p in adapted.model.named_parameters() if p.requires_grad}
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
        self.announce()
        keep_trunk(self)
        stepper = Stepper(
            self.wrapped, self.optimizer, self.accelerator, self.harness, seed=training.seed, clip=training.clip
        )
        began, first, before = time.monotonic(), self.state.step, self.state.seconds
        self.adapted.train_mode()
        self.stopping.start()
        try:
            for number, rows, micros in self.work(first):
                progress = number / max(1, self.steps - 1)
                rate = set_learning_rate(self.optimizer, schedule(number, self.steps, training))
                loss, norm = stepper.step(number, micros, progress)
                self.harness.consumed(number, rows)
                self.state.step = number + 1
                self.state.seconds = before + time.monotonic() - began
                self.note_step(loss, norm, rate, (number + 1 - first) / (time.monotonic() - began))
                stop = stepper.told_to_leave or self.stopping.asked(self.state.step)
                if stop or self.due():
                    self.pause(loss, norm)
                if stop or self.state.finished:
                    break
        finally:
            self.close()

    def resumed_at_its_end(self) -> bool:
        """Continue from the newest checkpoint; True when it is the run's last, and nothing is left to train."""
        restore(self)
        if self.state.finished:
            # Killed between the last commit and its publication: what is missing is the log.
            self.tracker.publish(self.state.log)
            self.close()
        return self.state.finished

    def close(self) -> None:
        """Drain the saver, end the tracker's file."""
        self.stopping.close()
        try:
            self.saver.close()
        finally:
            self.tracker.close()

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

    def pause(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Between two steps: evaluate if due, then checkpoint."""
        # Checked before anything is stored, so that a checkpoint never holds what is not a number.
        self.check(loss, norm)
        metrics = self.evaluate() if self.evaluates() else None
        self.checkpoint(metrics)
        if metrics is not None:
            self.harness.report(metrics)

    def evaluate(self) -> dict[str, float]:
        """Metrics on the evaluation rows; moves best, staleness and the end of the run."""
        size = max(32, self.spec.training.batch_size)
        metrics, records = evaluate(
            self.adapted, self.snapshot.eval, self.harness, size=size, autocast=self.accelerator.autocast()
        )
        self.adapted.train_mode()
        state, score, patience = self.state, self.spec.task.score, self.spec.training.early_stopping
        best = score.better(metrics[score.name], state.best)
        if best:
            state.best, state.best_correct, state.stale = metrics[score.name], packed(records), 0
        else:
            state.stale += 1
        stopped = patience is not None and state.stale >= patience
        state.finished = state.step >= self.steps or stopped
        epoch = state.step / self.per_epoch
        state.log.append({"step": state.step, "epoch": epoch, **{f"eval_{k}": v for k, v in metrics.items()}})
        self.harness.say("eval", step=state.step, epoch=epoch, metrics=metrics, best=best)
        if stopped and state.step < self.steps:
            self.harness.say("note", message=f"stopped early: {patience} evaluations without improvement")
        return metrics

    def checkpoint(self, metrics: dict[str, float] | None) -> None:
        """Snapshot on every rank (sharded tensors are gathered), write on the first."""
        tensors = {
            "delta.safetensors": live_tensors(self.adapted),
            "optimizer.safetensors": {
                **optimizer_tensors(self.optimizer, self.names),
                **{f"terms.{name}": value for name, value in self.module.terms.state_dict().items()},
            },
        }
        if not self.harness.first:
            for live in tensors.values():
                take_part(live)
            return
        self.state.scaler = scaler_state(self.accelerator)
        meta = {"run": self.job.run, "step": self.state.step, "base": self.job.base_hash, "metrics": metrics or {}}
        document = self.state.document()
        lines = list(self.state.log)
        stall = self.saver.save(
            self.state.step, tensors, document, meta, then=lambda saved: self.tracker.publish(lines)
        )
        self.harness.say("checkpoint", step=self.state.step, bytes=sum(self.saver.sizes.values()), stall_s=stall)

    def note_step(self, loss: torch.Tensor, norm: torch.Tensor, rate: float, steps_a_second: float) -> None:
        """A line for metrics.jsonl and the screen, now and then: reading a loss waits for the device."""
        step, every = self.state.step, self.stride
        if step % every and step != self.steps:
            return
        value = self.check(loss, norm)
        size = norm.item()
        # fp16 skips a step whose gradient overflows; JSON knows no infinity.
        seen = {"norm": size} if math.isfinite(size) else {}
        line = {"step": step, "epoch": step / self.per_epoch, "loss": value, **seen, "lr": rate}
        self.state.log.append(line)
        self.harness.say(
            "step",
            **line,
            steps=self.steps,
            rows_per_second=steps_a_second * self.spec.training.batch_size,
            left_s=(self.steps - step) / steps_a_second,
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

    def note_bits(self) -> None:
        """Record what the result's last bits depend on, and say so when a run goes on with something else."""
        now = {"threads": torch.get_num_threads(), "workers": self.harness.world, "device": self.harness.device.type}
        before = (self.runs.find(self.job.run) or {}).get("bits", now)
        if before != now:
            message = f"the run began with {before} and goes on with {now}: the result may differ in its last bits"
            self.harness.say("note", message=message)
        self.runs.update(self.job.run, bits=now)

    def announce(self) -> None:
        """The run in numbers, once."""
        parameters = list(self.adapted.model.parameters())
        if self.harness.first:
            self.note_bits()
        self.harness.say(
            "start",
            run=self.job.run,
            model=self.spec.name,
            rows=len(self.snapshot.train),
            steps=self.steps,
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            total=sum(p.numel() for p in parameters),
            workers=self.harness.world,
        )
