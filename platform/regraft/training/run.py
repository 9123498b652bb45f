"""One rank's state of a run: model, optimizer, progress, and the tensors that a checkpoint holds of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from regraft.bases.adapt import Adaptation, adapt, narrow
from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta, canonical_name, live_tensors
from regraft.bases.locate import Base
from regraft.bases.tensor_files import read_tensors
from regraft.contracts import Context, EvaluationDone, Note, Phase
from regraft.data.sampler import batches_per_epoch
from regraft.data.snapshot import Snapshot
from regraft.errors import Damaged
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.training.budget_guard import BudgetGuard
from regraft.training.checkpoint_bytes import LOG_LINES
from regraft.training.class_weights import class_weights
from regraft.training.closed_form import fit_head
from regraft.training.distribute import distribute, make_accelerator
from regraft.training.eval_features import EvalFeatures
from regraft.training.evaluate import evaluate, packed
from regraft.training.harness import Harness
from regraft.training.job import RunState
from regraft.training.optimizer import build_optimizer, optimizer_tensors, parameter_groups, restore_optimizer
from regraft.training.phases import phases_of, trained_names, training_of
from regraft.training.run_steps import steps_of as steps_of
from regraft.training.run_times import RunTimes
from regraft.training.step import StepModule
from regraft.training.teachers import TeacherLogits


class Callbacks(Protocol):
    """Calls that the loop makes, to store checkpoints and report evaluations."""

    checkpoints: Checkpoints
    """The checkpoints that the run continues from."""

    def on_start(self, run: Run) -> None:
        """Called before the first step of this attempt, unless the run is finished already."""
        ...

    def on_pause(self, run: Run, metrics: Mapping[str, float] | None) -> bool:
        """Called between two steps, with metrics if rows were evaluated; returns whether the run continues."""
        ...

    def on_already_finished(self, run: Run) -> None:
        """Called when the newest checkpoint is the run's last one, and no step is left."""
        ...

    def close(self) -> None:
        """Called at the end of the attempt, after an error too."""
        ...


def build_model(spec: RunSpec, snapshot: Snapshot, harness: Harness, base: Base, *, processor: Any = None) -> Adapted:
    """Return the adapted model before its first step; `processor` is the base's, if it is loaded already."""
    training = spec.training
    adaptation = Adaptation(
        task=spec.task, method=spec.method, labels=snapshot.labels, seed=training.seed, dropout=training.dropout
    )
    adapted = adapt(base, adaptation, processor=processor)
    adapted.context = training_context(adapted.context, spec, snapshot, harness)
    return adapted


def training_context(context: Context, spec: RunSpec, snapshot: Snapshot, harness: Harness) -> Context:
    """Return the task's context with what the spec sets for the loss and for the rows."""
    weights = class_weights(spec.training.class_weights, snapshot.labels, snapshot.train, spec.task)
    return replace(
        context,
        class_weights=None if weights is None else weights.to(harness.device),
        label_smoothing=spec.training.label_smoothing,
        augment=spec.data.augment,
    )


class Run:
    """One rank's state of a run, shared by its steps, evaluations and checkpoints."""

    def __init__(
        self, *, spec: RunSpec, snapshot: Snapshot, adapted: Adapted, harness: Harness, callbacks: Callbacks
    ) -> None:
        self.spec, self.snapshot, self.adapted = spec, snapshot, adapted
        self.harness, self.callbacks = harness, callbacks
        self.state, self.times = RunState(), RunTimes()
        self.guard: BudgetGuard | None = None
        """Ends the run before its budget is overspent; None without a budget."""
        self.eval_features: EvalFeatures | None = None
        """Keeps what the head reads of the best evaluation; None where nothing is kept."""
        self.accelerator = make_accelerator(spec.compute, harness)
        # Loss terms are built from the base's values, before a checkpoint is read into the model. Their own seed makes
        # them independent of whether baselines were measured earlier in this process.
        torch.manual_seed(spec.training.seed)
        # Terms that weigh nothing would still be in the sum of the gradient's norm, and change its last bits.
        self._losses = [loss for loss in spec.losses if loss.weight]
        self.module = StepModule(adapted, self._losses)
        # Two domains in turn would spoil the running statistics of both.
        adapted.fixed_statistics = spec.reads_target
        self.teachers: Mapping[str, TeacherLogits] = {}
        """Logits that loss terms learn from, by the reference of the model."""
        self.trained = trained_names(adapted)
        """The model's names of the parameters that any phase moves."""
        self.phases = phases_of(adapted, self.steps, self.per_epoch)
        self._prepare_phase()

    def _prepare_phase(self) -> None:
        """Let move what moves in the phase of the state, and make its wrapper and optimizer."""
        adapted, spec = self.adapted, self.spec
        if len(self.phases) > 1:
            narrow(adapted, self.trained, self.phase.moves)
        self.wrapped = distribute(self.module, adapted, spec.compute, self.accelerator, harness=self.harness)
        named = [*adapted.model.named_parameters(), *self.module.terms.named_parameters(prefix="terms")]
        training = training_of(self.phase, spec.training)
        groups = parameter_groups(named, adapted.anatomy, training, spec.method.decays)
        self.optimizer = build_optimizer(groups, training)
        prefix = adapted.anatomy.prefix
        self.names = {
            p: canonical_name(name, prefix) for name, p in adapted.model.named_parameters() if p.requires_grad
        }
        self.names |= {p: f"terms.{name}" for name, p in self.module.terms.named_parameters()}

    def _change_phase(self) -> None:
        """Make anew what belongs to a phase, when the state has another one."""
        self.accelerator = make_accelerator(self.spec.compute, self.harness)
        self.module = StepModule(self.adapted, self._losses, terms=self.module.terms)
        self._prepare_phase()

    @property
    def phase(self) -> Phase:
        """The phase that the next step belongs to, or the last one."""
        return self.phases[self.state.phase]

    @property
    def is_last_phase(self) -> bool:
        """Whether the run ends with the current phase."""
        return self.state.phase + 1 == len(self.phases)

    @property
    def is_phase_over(self) -> bool:
        """Whether the next step belongs to a later phase."""
        state, patience = self.state, self.phase.patience
        over = state.step >= self.phase.end or (patience is not None and state.stale >= patience)
        return over and not self.is_last_phase

    def enter_phase(self) -> None:
        """Begin the phase that the next step belongs to, unless it has begun.

        It follows from the state alone, so that a run that continues where a phase begins does the same.
        """
        number = self.state.phase
        while self.is_phase_over:
            self.state.phase, self.state.phase_began, self.state.stale = self.state.phase + 1, self.state.step, 0
        if self.state.phase != number:
            self._change_phase()
            count = sum(p.numel() for p in self.adapted.model.parameters() if p.requires_grad)
            self.harness.emit(
                Note(
                    f"phase {self.state.phase + 1} of {len(self.phases)} begins after step {self.state.step}: "
                    f"{count:,} parameters move"
                )
            )

    @property
    def per_epoch(self) -> int:
        """Steps per pass over the training rows."""
        return batches_per_epoch(len(self.snapshot.train), self.spec.training.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the run from its first to its last."""
        return steps_of(self.spec.training, len(self.snapshot.train))

    @property
    def stride(self) -> int:
        """Steps between two lines of the log, for which the loss is read from the device."""
        return max(1, -(-self.steps // LOG_LINES))

    def evaluate(self) -> dict[str, float]:
        """Return metrics on the evaluation rows, and update the state: best score, staleness, end of the run."""
        size = max(32, self.spec.training.batch_size)
        if self.spec.method.trains_features:
            with self.accelerator.autocast():
                fit_head(self.adapted, self.snapshot.train, self.harness, size=size)
        with nullcontext() if self.eval_features is None else self.eval_features.watching():
            metrics, records = evaluate(
                self.adapted, self.snapshot.eval, self.harness, size=size, autocast=self.accelerator.autocast()
            )
        self.adapted.train_mode()
        state, last = self.state, self.state.step >= self.steps
        patience = self.spec.training.early_stopping if self.is_last_phase else None
        if best := state.judge(metrics, self.spec.task.score, patience=patience, last=last):
            state.best_correct = packed(records)
            if self.eval_features is not None:
                self.eval_features.keep(state.step)
        self.times.evaluations += 1
        epoch = state.step / self.per_epoch
        state.log.append({"step": state.step, "epoch": epoch, **{f"eval_{k}": v for k, v in metrics.items()}})
        self.harness.emit(EvaluationDone(state.step, epoch, metrics, best))
        if state.finished and not last:
            self.harness.emit(Note(f"stopped early: {patience} evaluations without improvement"))
        return metrics

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the live tensors of a checkpoint, by the file that holds them."""
        terms = {f"terms.{name}": value for name, value in self.module.terms.state_dict().items()}
        return {
            "delta.safetensors": live_tensors(self.adapted),
            "optimizer.safetensors": {**optimizer_tensors(self.optimizer, self.names), **terms},
        }

    def load(self, folder: Path) -> None:
        """Read a checkpoint's files into model, optimizer, loss terms and state."""
        self.state = RunState.read((folder / "state.json").read_bytes())
        if not 0 <= self.state.phase < len(self.phases):
            raise Damaged(
                f"state.json is of phase {self.state.phase + 1}, and this run has {len(self.phases)}",
                where="checkpoint",
            )
        if self.state.phase:
            self._change_phase()
        apply_delta(self.adapted, read_tensors(folder / "delta.safetensors"))
        if self.state.finished and not (folder / "optimizer.safetensors").exists():
            return  # the last checkpoint of a trial: no step follows it
        tensors = read_tensors(folder / "optimizer.safetensors")
        terms = {key.removeprefix("terms."): value for key, value in tensors.items() if is_term(key)}
        if terms or len(self.module.terms):
            self.module.terms.load_state_dict(terms)
        moments = {key: value for key, value in tensors.items() if not is_term(key)}
        restore_optimizer(self.optimizer, self.names, moments)
        if self.accelerator.scaler is not None and self.state.scaler:
            self.accelerator.scaler.load_state_dict(self.state.scaler)


def is_term(key: str) -> bool:
    """Return whether an entry of a checkpoint is a value of a loss term, not an optimizer's moment."""
    return key.startswith("terms.") and "|" not in key
