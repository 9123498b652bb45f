"""The training loop, in order: build, restore, step, evaluate, checkpoint, end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from regraft.bases.locate import check_hash
from regraft.contracts import Batch, Resumed, Stepped
from regraft.data.rows import Rows
from regraft.data.sampler import batches_per_epoch, position, share, target_batches
from regraft.data.snapshot import open_snapshot
from regraft.errors import Diverged
from regraft.store.objects import ObjectStore, open_existing
from regraft.store.runs import RunDocument, Runs
from regraft.store.scratch_folder import scratch_folder
from regraft.training.baselines import measure_baselines
from regraft.training.callbacks import RunCallbacks
from regraft.training.closed_form import solve_head
from regraft.training.cut_check import CutSite
from regraft.training.eval_features import EvalFeatures
from regraft.training.evaluate import encoded
from regraft.training.harness import Harness
from regraft.training.job import Job, RunState
from regraft.training.memory_check import check_weights_fit, explain_out_of_memory
from regraft.training.optimizer import schedule, set_learning_rate
from regraft.training.prepare import base_of
from regraft.training.resume import newest_checkpoint
from regraft.training.row_order import row_order
from regraft.training.run import Run, build_model
from regraft.training.run_outcome import record_outcome
from regraft.training.run_start import RunStart
from regraft.training.run_times import RunTimes
from regraft.training.soup import make_soup
from regraft.training.step import MicroBatch, Stepper
from regraft.training.teachers import load_teachers
from regraft.training.test_rows import report_test
from regraft.training.trunk_cache import build_trunk
from regraft.trunk.cache import Trunk


def fit(job: Job, harness: Harness) -> RunState:
    """Train a job to its end on this rank, from the newest valid checkpoint in the store, and return the run's state.

    The state is not `finished` when a rank was asked to stop; its progress is then in a checkpoint.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    spec = job.resolved()
    store = open_existing(spec.store)
    with scratch_folder() as folder, explain_out_of_memory(spec):
        document, times, start = RunDocument(Runs(store), job.run), RunTimes(), RunStart(spec, job, harness)
        with times.of("load"):
            snapshot = open_snapshot(store, job.fingerprint)
            base = base_of(store, spec, job)
            check_weights_fit(base, harness)
            adapted = build_model(spec, snapshot, harness, base)
        plan = start.plan(adapted, snapshot)
        with times.of("baselines"):
            measure_baselines(spec, adapted.base, snapshot, harness, document=document)
        callbacks = RunCallbacks(spec, job, store, harness, folder=folder)
        callbacks.planned = plan.document()
        run = Run(spec=spec, snapshot=snapshot, adapted=adapted, harness=harness, callbacks=callbacks)
        run.times, run.guard = times, start.guard
        exact = run.accelerator.mixed_precision == "no"
        run.eval_features = EvalFeatures.of(spec, adapted, snapshot.eval, harness, exact=exact)
        with closing(callbacks):
            if left := begin(run, folder / "resume"):
                resumed = run.state.step > 0
                site = CutSite(spec, snapshot, adapted, harness, run.accelerator, store, job.run)
                run.teachers = load_teachers(site, folder)
                train(run, lambda: phase_trunk(run, store, document, folder))
            if run.state.finished:
                callbacks.wait()
                make_soup(run, folder / "soup", callbacks.on_soup)
                if run.eval_features is not None:
                    run.eval_features.write(Runs(store), job.run)
                report_test(run, document, folder / "test", callbacks.on_test)
                if left:
                    record_outcome(run, job, document, resumed=resumed)
        if run.guard is not None and not run.state.finished:
            run.guard.raise_if_stopped()
        return run.state


def phase_trunk(run: Run, store: ObjectStore, document: RunDocument, folder: Path) -> Trunk | None:
    """Return the filled trunk cache of the phase that begins, or None where it has none."""
    adapted, harness, phase = run.adapted, run.harness, run.state.phase
    site = CutSite(run.spec, run.snapshot, adapted, harness, run.accelerator, store, document.run, phase)
    passes = (run.phase.end - run.state.phase_began) / run.per_epoch
    return build_trunk(site, document, folder, passes=passes)


def begin(run: Run, folder: Path) -> bool:
    """Restore a run and call `on_start` or `on_already_finished`; return whether any step is left.

    `folder` is scratch space for the checkpoint's files.
    """
    restore(run, folder)
    if run.state.finished:
        run.callbacks.on_already_finished(run)
        return False
    run.callbacks.on_start(run)
    return True


def restore(run: Run, folder: Path) -> None:
    """Load the newest valid checkpoint into the run, if there is one; raises WrongBase if its base differs."""
    found = newest_checkpoint(run.callbacks.checkpoints, run.harness, folder)
    if found is None:
        return
    saved, files = found
    check_hash(run.adapted.base, saved.meta["base"], f"checkpoint {saved.prefix} was made on the base with that hash")
    run.load(files)
    run.harness.emit(Resumed(run.state.step, saved.prefix))


def train(run: Run, trunk: Callable[[], Trunk | None]) -> None:
    """Train a run after `begin`, until it ends or is stopped.

    `trunk` returns what replaces the frozen part of the model in the phase that begins.
    """
    if run.spec.method.closed_form:
        solve(run)
        return
    goes_on = True
    while goes_on:
        run.enter_phase()
        run.adapted.trunk = None  # its memory counts as free when the next one is planned
        with run.times.of("trunk"):
            run.adapted.trunk = trunk()
        goes_on = take_steps(run)


def solve(run: Run) -> None:
    """Solve the head of a closed-form method: one step, one evaluation, one checkpoint."""
    size = max(32, run.spec.training.batch_size)
    solve_head(run.adapted, run.spec.method, run.snapshot.train, run.harness, size=size)
    run.state.step = run.steps
    metrics = run.evaluate() if len(run.snapshot.eval) else {}
    run.state.finished = True
    run.callbacks.on_pause(run, metrics)


def take_steps(run: Run) -> bool:
    """Take the remaining steps of a phase, with evaluations and checkpoints, until it ends or the run is stopped.

    Returns whether another phase follows.
    """
    run.harness.stepping = True
    try:
        return _take_steps(run)
    finally:
        run.harness.stepping = False


def _take_steps(run: Run) -> bool:
    training, state, harness = run.spec.training, run.state, run.harness
    began, planned = state.phase_began, run.phase.end - state.phase_began
    stepper = Stepper(run.wrapped, run.optimizer, run.accelerator, harness, training=training)
    started, first, elapsed_before = time.monotonic(), state.step, state.seconds
    run.adapted.train_mode()
    mark = started
    for number, rows, micros in micro_batches(run, first):
        if run.guard is not None:
            ends = (number + 1, number + 2)
            run.guard.before_step(run.times, pauses=[is_evaluation_after(run, end) for end in ends])
        progress = number / max(1, run.steps - 1)
        rate = set_learning_rate(run.optimizer, schedule(number - began, planned, training))
        loss, norm = stepper.step(number, micros, progress)
        harness.consumed(number, rows)
        state.step = number + 1
        state.seconds = elapsed_before + time.monotonic() - started
        log_step(run, loss, norm, rate, steps_per_second=(number + 1 - first) / (time.monotonic() - started))
        run.times.stepped(time.monotonic() - mark)
        stopping, mark = stepper.stop_requested, time.monotonic()
        if not (stopping or is_pause_due(run)):
            continue
        # Checked before anything is stored: no checkpoint may hold NaN.
        finite_loss(run, loss, norm)
        with run.times.of("evaluation"):
            metrics = run.evaluate() if is_evaluation_due(run) else None
        state.seconds = elapsed_before + time.monotonic() - started
        with run.times.of("pause"):
            goes_on = run.callbacks.on_pause(run, metrics)
        mark = time.monotonic()
        if stopping or state.finished or not goes_on:
            return False
        if run.is_phase_over:
            break
    return run.is_phase_over


def micro_batches(run: Run, first: int) -> Iterator[tuple[int, np.ndarray, list[MicroBatch]]]:
    """Yield each step's number, its training rows over all ranks, and this rank's micro-batches.

    A rank that has no rows left runs another rank's row, which does not count, to take part in collective operations.
    """
    rows = run.snapshot.train
    order = row_order(run.spec, rows, run.per_epoch)
    target = TargetStream(run) if run.spec.reads_target else None
    for number in range(first, run.phase.end):
        chosen, key = order.of_step(number)
        micros = [MicroBatch(*found) for found in _shares(run, rows, chosen, key)]
        if target is not None:
            sides = zip(micros, target.shares(run, number), strict=True)
            micros = [replace(micro, target=batch, target_real=real) for micro, (batch, real) in sides]
        yield number, chosen, micros


def _shares(run: Run, rows: Rows, chosen: np.ndarray, key: tuple[int, int]) -> list[tuple[Batch, bool]]:
    """Return this rank's micro-batches of the chosen rows, each with whether it counts."""
    found = []
    for own in share(chosen, run.harness.rank, run.harness.world, run.spec.training.accumulation):
        indices = own if len(own) else chosen[:1]
        batch = encoded(run.adapted, rows, indices, train=True, key=key)
        if run.teachers and rows is run.snapshot.train:
            batch["teachers"] = {name: teacher.of(indices.tolist()) for name, teacher in run.teachers.items()}
        found.append((batch, len(own) > 0))
    return found


class TargetStream:
    """The order of the target rows: each once in an epoch of their own, whatever the training rows' is."""

    def __init__(self, run: Run) -> None:
        assert run.snapshot.target is not None
        self._rows, training = run.snapshot.target, run.spec.training
        self._bucketing = training.bucketing and "bucketing" in run.spec.task.supports
        self._epoch, self._order = -1, list[np.ndarray]()
        self._per_epoch = batches_per_epoch(len(self._rows), training.batch_size)

    def shares(self, run: Run, number: int) -> list[tuple[Batch, bool]]:
        """Return this rank's micro-batches of target rows for a step."""
        training = run.spec.training
        epoch, index = position(number, self._per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = target_batches(
                training.seed, epoch, self._rows.lengths, training.batch_size, bucketing=self._bucketing
            )
        return _shares(run, self._rows, self._order[index], (training.seed, epoch))


def is_pause_due(run: Run) -> bool:
    """Return whether to evaluate or to checkpoint after this step."""
    every = run.spec.training.checkpoint_steps
    return is_evaluation_due(run) or bool(every and run.state.step % every == 0)


def is_evaluation_due(run: Run) -> bool:
    """Return whether this step ends an epoch, `eval_steps` steps, or the run.

    An epoch of balanced batches has no meaning of its own, and often one step.
    """
    return is_evaluation_after(run, run.state.step)


def is_evaluation_after(run: Run, step: int) -> bool:
    """Return whether rows are evaluated after so many steps."""
    usual = run.steps if run.spec.method.trains_features else run.per_epoch
    return step % (run.spec.training.eval_steps or usual) == 0 or step == run.steps


def log_step(run: Run, loss: torch.Tensor, norm: torch.Tensor, rate: float, *, steps_per_second: float) -> None:
    """Log and report every `stride`-th step; not every step, since reading a loss waits for the device."""
    step, every = run.state.step, run.stride
    if step % every and step != run.steps:
        return
    value = finite_loss(run, loss, norm)
    size = norm.item()
    # fp16 skips a step whose gradient overflows; JSON has no infinity.
    seen = {"norm": size} if math.isfinite(size) else {}
    epoch = step / run.per_epoch
    run.state.log.append({"step": step, "epoch": epoch, "loss": value, **seen, "lr": rate})
    run.harness.emit(
        Stepped(
            step=step,
            epoch=epoch,
            loss=value,
            norm=seen.get("norm"),
            lr=rate,
            steps=run.steps,
            rows_per_second=steps_per_second * run.spec.training.batch_size,
            left_s=(run.steps - step) / steps_per_second,
        )
    )


def finite_loss(run: Run, loss: torch.Tensor, norm: torch.Tensor) -> float:
    """Return the loss as a number; raises Diverged when the loss or the gradient's norm is not finite.

    The norm may overflow under loss scaling (fp16).
    """
    value = loss.item()
    scaled = run.accelerator.scaler is not None
    if not math.isfinite(value) or (not scaled and not torch.isfinite(norm)):
        raise Diverged(
            f"the loss is {value} and the gradient's norm {norm.item()}: lower training.lr, or raise the warm-up",
            where=f"step {run.state.step}",
        )
    return value
