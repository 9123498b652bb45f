"""What a budget of memory or of the store does not hold, and the smallest change that it holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from regraft.errors import RegraftError
from regraft.spec.run import RunSpec
from regraft.training.planner import Planner, RunPlan
from regraft.units import bytes_text, counted

log = logging.getLogger(__name__)
LIGHTEST: tuple[dict[str, Any], ...] = ({"method": {"type": "lora"}}, {"method": {"type": "feature-extraction"}})
"""Methods that move little, in the order in which they are proposed."""
DEPTHS = ("25%", "50%", "75%", "all")


def space_refusal(spec: RunSpec, plan: RunPlan, planner: Planner) -> str | None:
    """Return why a run does not fit into its budget of memory or of the store; None where it fits."""
    budget = spec.budget
    most, room = budget.store, budget.memory
    if most is not None and plan.checkpoints > most:
        change = smallest_change(spec, planner, lambda one: one.checkpoints <= most, _less_stored(spec))
        return (
            f"budget.store_gb: {budget.store_gb:g} do not hold {counted(plan.kept, 'checkpoint')} of "
            f"{bytes_text(plan.checkpoint.total)} each, {bytes_text(plan.checkpoints)}: {change}"
        )
    if room is not None and plan.memory.device_total > room:
        other = plan.memory.host
        change = smallest_change(spec, planner, lambda one: one.with_host(other) <= room, _less_memory(spec))
        return (
            f"budget.memory_gb: {budget.memory_gb:g} do not hold the {bytes_text(plan.memory.device_total)} that a "
            f"worker is planned to need: {change}; `regraft plan` says what each part needs"
        )
    return None


def smallest_change(
    spec: RunSpec, planner: Planner, fits: Callable[[RunPlan], bool], changes: Iterator[dict[str, Any]]
) -> str:
    """Return the first of the changes with which a plan fits, as a request to write it."""
    for change in changes:
        try:
            if fits(planner.plan(spec.override(change), beside={})):
                return "write " + ", ".join(f"{key}: {_written(value)}" for key, value in change.items())
        except RegraftError as error:
            log.info("%s is no change for this run: %s", change, error)
    return "no smaller form of this run fits: use a smaller base, or a larger budget"


def _less_memory(spec: RunSpec) -> Iterator[dict[str, Any]]:
    training = spec.training
    micro = training.batch_size // training.accumulation
    while micro > 1:
        micro //= 2
        yield {"training.accumulation": training.batch_size // micro}
    if not spec.compute.activation_checkpointing:
        yield {"training.accumulation": training.batch_size, "compute.activation_checkpointing": True}
    yield from _lighter_methods(spec)


def _less_stored(spec: RunSpec) -> Iterator[dict[str, Any]]:
    for keep in range(spec.training.keep - 1, 0, -1):
        yield {"training.keep": keep}
    yield from _lighter_methods(spec)


def _lighter_methods(spec: RunSpec) -> Iterator[dict[str, Any]]:
    if spec.method.moves_all or spec.method.frozen_blocks(0) is None:
        yield from ({"method": {"type": "freeze", "depth": depth}} for depth in DEPTHS)
    yield from (change for change in LIGHTEST if change["method"]["type"] != spec.method.key())


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return value["type"] if len(value) == 1 else "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
