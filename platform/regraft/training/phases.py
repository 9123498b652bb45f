"""Phases of a run: until when, what moves, and at which rate. A run without phases has one, of all its steps."""

from __future__ import annotations

from itertools import pairwise

from regraft.bases.adapted import Adapted
from regraft.contracts import Method, Phase, under
from regraft.spec.sections import TrainingSpec


def trained_names(adapted: Adapted) -> frozenset[str]:
    """Return the model's names of the parameters that move at present."""
    return frozenset(name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad)


def phases_of(adapted: Adapted, steps: int, per_epoch: int) -> tuple[Phase, ...]:
    """Return the phases of a run of so many steps, at least one; the last one ends with the run.

    Raises RuntimeError for a method whose phases are out of order, or of which one leaves still what an earlier moved:
    kept outputs of the frozen part would be of other weights.
    """
    method = adapted.method
    phases = method.phases(steps, per_epoch, adapted.anatomy) or (Phase(moves=method, end=steps),)
    if phases[-1].end != steps or any(one.end > two.end for one, two in pairwise(phases)):
        raise RuntimeError(f"phases of method {method.key()} end at {[one.end for one in phases]} of {steps} steps")
    moving = [_moving(adapted, phase.moves) for phase in phases]
    for number, (before, after) in enumerate(pairwise(moving), start=2):
        if lost := sorted(before - after):
            raise RuntimeError(f"phase {number} of method {method.key()} no longer moves {lost[0]}")
    return phases


def _moving(adapted: Adapted, method: Method) -> frozenset[str]:
    frozen = method.frozen(adapted.model, adapted.anatomy)
    return frozenset(name for name in trained_names(adapted) if not under(name, frozen))


def training_of(phase: Phase, training: TrainingSpec) -> TrainingSpec:
    """Return the run's section `training` with the rates of a phase."""
    if phase.lr is None:
        return training
    return training.model_copy(update={"lr": phase.lr, "head_factor": 1.0})
