"""The budget of a run: what cannot fit is refused before the first step, and the rest ends at a step in time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from regraft.bases.adapted import Adapted
from regraft.data.snapshot import Snapshot
from regraft.errors import RequestError, Stopped
from regraft.spec.budget import BudgetSpec
from regraft.spec.run import RunSpec
from regraft.training import run_times
from regraft.training.evaluate import encoded, to_device
from regraft.training.harness import Harness
from regraft.training.job import Job, RunState
from regraft.training.planner import Planner, RunPlan
from regraft.training.run_times import RunTimes, peak_bytes
from regraft.training.smaller_runs import space_refusal
from regraft.units import bytes_text, counted, finite_number, seconds_text

PROBED_ROWS = 8
"""Rows of the passes that are timed where a budget has seconds."""
CERTAIN = 0.75
"""Share of the least time of a run: with less, it certainly does not fit."""
NEAR = 0.98
"""Share of the memory at which a run is stopped."""


def spent_seconds(record: Mapping[str, Any]) -> float:
    """Return the seconds of the commands that a run's record knows."""
    return max(0.0, finite_number(record.get("spent_s")) or 0.0)


def is_budget_end(error: Stopped) -> bool:
    """Return whether a run was stopped by its own budget, not by a signal or a request."""
    return error.message.startswith("budget.")


def refuse_spent(budget: BudgetSpec, spent: float, run: str) -> None:
    """Raise RequestError where earlier attempts have spent the seconds of a budget."""
    if budget.seconds is not None and spent >= budget.seconds:
        raise RequestError(
            f"budget.seconds: {budget.seconds:g} are spent, {seconds_text(spent)} over all attempts: write more, and "
            "the same command goes on from the last checkpoint",
            where=run,
        )


class BudgetGuard:
    """Watches the budget of a run between its steps, on every rank."""

    def __init__(self, spec: RunSpec, job: Job, harness: Harness) -> None:
        budget = spec.budget
        self._spec, self._budget, self._harness = spec, budget, harness
        self._run, self._before, self._began = job.run, job.spent, job.began or run_times.now()
        self.reason = ""
        """Why this rank asked for the end; empty while it did not."""
        self.done = RunState()
        """What earlier attempts have trained, as the first rank knows it."""
        if budget.memory is not None:
            _forget_peak(harness.device)

    @property
    def left_s(self) -> float | None:
        """Seconds that are left; None without a limit."""
        if self._budget.seconds is None:
            return None
        return self._budget.seconds - self._before - (run_times.now() - self._began)

    def check_start(self, adapted: Adapted, snapshot: Snapshot, plan: RunPlan, planner: Planner | None) -> None:
        """Raise RequestError on every rank where the run certainly does not fit into what is left.

        `planner` is there on the first rank. A run whose last step is stored is never refused.
        """
        message = None
        if planner is not None and not self.done.finished:
            message = space_refusal(self._spec, plan, planner) or self._too_long(adapted, snapshot, plan)
        message = self._harness.from_first(message)
        if message:
            raise RequestError(message, where="budget")

    def before_step(self, times: RunTimes, *, pauses: Sequence[bool]) -> None:
        """Ask for the end after the coming step, where the one after it would overspend.

        `pauses` says whether rows are evaluated after the coming step, and after the one that follows.
        """
        if self._harness.first and (left := self.left_s) is not None:
            need = sum(self._step_s(times, paused) for paused in pauses)
            if left < need:
                self._stop(f"budget.seconds: {self._budget.seconds:g} are about to be spent")
        most = self._budget.memory
        if most is not None and (peak := peak_bytes(self._harness.device)) > NEAR * most:
            self._stop(f"budget.memory_gb: {self._budget.memory_gb:g} are reached ({bytes_text(peak)})")

    def raise_if_stopped(self) -> None:
        """Raise Stopped on the first rank where any rank asked for the end; called on every rank."""
        every = [reason for rank in self._harness.gather([self.reason]) for reason in rank if reason]
        if self._harness.first and every:
            raise Stopped(
                f"{every[0]}: what was trained is in a checkpoint, and the same command with a larger budget goes on "
                "from there",
                where=self._run,
            )

    def _stop(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            self._harness.notice.give(reason)

    def _step_s(self, times: RunTimes, paused: bool) -> float:
        step = times.slowest_step or times.first_step
        if not paused:
            return step
        known = times.parts.get("evaluation", 0.0) / times.evaluations if times.evaluations else self._evaluation_s
        return step + known + times.slowest_pause

    _evaluation_s = 0.0

    def _too_long(self, adapted: Adapted, snapshot: Snapshot, plan: RunPlan) -> str | None:
        """Return why the run does not fit into the seconds that are left; None where it may."""
        spec, left = self._spec, self.left_s
        if left is None:
            return None
        row = _row_seconds(adapted, snapshot, self._harness.device) / plan.workers
        rows = len(snapshot.train)
        self._evaluation_s = row * len(snapshot.eval)
        asked = f"budget.seconds: {self._budget.seconds:g} ({max(0.0, left):.3g} left)"
        if self.done.step:
            return _no_rest(spec, plan, row, left, done=self.done.step)
        if problem := _no_epoch(snapshot, row, left, asked):
            return problem
        least = _least_seconds(spec, plan, row)
        if left >= CERTAIN * least:
            return None
        epochs = int(plan.steps * spec.training.batch_size / rows * left / least)
        fewer = f"training.epochs: {epochs}, " if epochs >= 1 else ""
        return (
            f"{asked} do not hold {counted(plan.steps, 'step')}, which take at least {seconds_text(CERTAIN * least)} "
            f"here: write {fewer}{_cheaper(spec, plan, row, left)}or more seconds"
        )


def check_one_epoch(adapted: Adapted, snapshot: Snapshot, seconds: float) -> None:
    """Raise RequestError where a budget is smaller than one epoch of the cheapest method."""
    device = next(adapted.model.parameters()).device
    row = _row_seconds(adapted, snapshot, device)
    if problem := _no_epoch(snapshot, row, seconds, f"budget.seconds: {seconds:g}"):
        raise RequestError(problem, where="budget")


def _no_epoch(snapshot: Snapshot, row: float, left: float, asked: str) -> str | None:
    """Return why not even kept outputs of the base can be computed once, if so."""
    rows = len(snapshot.train) + len(snapshot.eval)
    if left >= row * rows:
        return None
    return (
        f"{asked} do not hold one epoch of the cheapest method: a pass of the base over {counted(rows, 'row')} takes "
        f"about {seconds_text(row * rows)} here: write more seconds, fewer rows, or a smaller base"
    )


def _no_rest(spec: RunSpec, plan: RunPlan, row: float, left: float, *, done: int) -> str | None:
    """Return why the steps after the last checkpoint do not fit, if so; outputs of a frozen part may be kept."""
    share = plan.depth / plan.blocks if plan.blocks else 0.0
    rest = max(0, plan.steps - done)
    least = CERTAIN * (1 - share) * 2 * row * rest * spec.training.batch_size
    if left >= least:
        return None
    return (
        f"budget.seconds: {max(0.0, left):.3g} are left, and {counted(rest, 'step')} after the last checkpoint take at "
        f"least {seconds_text(least)} here: write at least {least - left:.3g} more, and the same command goes on"
    )


def _row_seconds(adapted: Adapted, snapshot: Snapshot, device: torch.device) -> float:
    """Return the seconds of a forward pass for one row of middling length, from the second of two small batches."""
    order = snapshot.train.lengths.argsort(kind="stable")
    start = max(0, len(order) // 2 - PROBED_ROWS // 2)
    indices = order[start : start + PROBED_ROWS].copy()
    adapted.model.to(device)
    seconds = 0.0
    adapted.eval_mode()
    with torch.inference_mode():
        for _ in range(2):
            began = time.perf_counter()
            adapted.forward(to_device(encoded(adapted, snapshot.train, indices, train=False), device))
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
    return seconds / max(1, len(indices))


def _least_seconds(spec: RunSpec, plan: RunPlan, row: float, frozen: float | None = None) -> float:
    """Return the least time of a run: a pass for each row of a step above what is frozen, and one backwards."""
    if spec.method.closed_form:
        return row * sum(plan.rows.values())
    share = plan.depth / plan.blocks if plan.blocks and frozen is None else frozen or 0.0
    once = share * row * sum(plan.rows.values())
    return once + (1 - share) * 2 * row * plan.steps * spec.training.batch_size


def _cheaper(spec: RunSpec, plan: RunPlan, row: float, left: float) -> str:
    """Return the smallest depth that fits, as part of a sentence; empty where none does."""
    for share in (0.25, 0.5, 0.75, 1.0):
        if plan.blocks and _least_seconds(spec, plan, row, share) <= left:
            word = "all" if share == 1 else f"{share:.0%}"
            return f"method: {{type: freeze, depth: {word}}}, "
    return ""


def _forget_peak(device: torch.device) -> None:
    """Let the peak of the memory begin with what is used now, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
