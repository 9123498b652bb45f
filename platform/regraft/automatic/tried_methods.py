"""The methods that are tried, what an epoch of each costs here, and which of them the budget allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from regraft.automatic.usable_bases import SMALL, SOME_LABELS
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.locate import Base
from regraft.bases.meta_model import meta_model
from regraft.contracts import Anatomy, Method
from regraft.errors import RegraftError
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.training.prepare import base_bytes, base_reference

BACKWARD = 2.0
"""A backward pass costs as much as this many forward passes of what it goes through."""
HEAD_S = 2e-4
"""Seconds of a step of a head alone, a row."""
FIXED_S = 2.0
"""Seconds of every search and run besides its rows: the base is loaded, checkpoints are written."""
RATES = (1.0, 3.0, 1 / 3)
"""Learning rates that are tried, as multiples of the method's own."""


@dataclass(frozen=True)
class RowCosts:
    """How many rows there are, and what one costs."""

    train: int
    eval: int
    forward_s: float
    """Seconds of a forward pass of one row on this machine, its encoding included."""


@dataclass(frozen=True)
class TriedMethod:
    """A method with the number of epochs that the budget allows it."""

    method: Method
    varied: Mapping[str, tuple[Any, ...]]
    """Fields of the method, each with the values that are tried."""
    passes: float
    """Forward passes that a training step costs, backward included."""
    epochs: int
    costs: RowCosts

    @property
    def head_alone(self) -> bool:
        """Whether the frozen base is computed once a row, whatever the epochs."""
        return self.method.serves == "head"

    def seconds(self, epochs: int | None = None) -> float:
        """Return the seconds that a training of so many epochs probably takes here, its own by default."""
        epochs, costs = self.epochs if epochs is None else epochs, self.costs
        if self.head_alone:
            return FIXED_S + (costs.train + costs.eval) * costs.forward_s + epochs * costs.train * HEAD_S
        return FIXED_S + epochs * (costs.train * self.passes + costs.eval) * costs.forward_s

    def within(self, seconds: float) -> TriedMethod | None:
        """Return the method with as many epochs as fit, at most its own; None where not even one fits."""
        if self.seconds() <= seconds:
            return self
        one = self.seconds(1)
        fit = math.floor((seconds - FIXED_S) / max(one - FIXED_S, 1e-9))
        return replace(self, epochs=min(self.epochs, fit)) if fit >= 1 and not self.head_alone else None


def controls_seconds(methods: Sequence[TriedMethod], winner: str, spec: RunSpec) -> float:
    """Return the seconds that the controls of a winner probably take: all weights from random ones, and a head."""
    chosen = next(one for one in methods if one.method.key() == winner)
    whole = [one for one in methods if one.method.moves_all]
    heads = [one for one in methods if one.head_alone]
    epochs = spec.training.epochs if isinstance(spec.training.epochs, int) else chosen.epochs
    random = sum(one.seconds(None if chosen.head_alone else epochs) for one in whole[:1])
    return random + sum(one.seconds() for one in heads[:1] if not chosen.head_alone) + FIXED_S


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A method that is not tried, and why."""

    method: str
    why: str


def methods_for(spec: RunSpec, base: Base, costs: RowCosts) -> tuple[list[TriedMethod], list[LeftOut]]:
    """Return the methods that can adapt the base to the spec's task, the cheapest first, and those that cannot."""
    labels = spec.task.classes() or SOME_LABELS  # their number changes the head alone
    tried: list[TriedMethod] = []
    left_out: list[LeftOut] = []
    for name in Method.names():
        varied = Method.lookup(name).varied()
        if varied is None:
            continue
        try:
            changed = spec.override({"method": {"type": name}, "training.lr": "auto", "training.epochs": "auto"})
            base_reference(changed)  # raises for random weights that would stay
            model, anatomy = meta_model(spec.task, base, labels)
            passes = _passes(changed.method, anatomy)
            changed.method.adapt(model, anatomy)
            if base_bytes(base) <= SMALL:  # whether a head is new is known once the base's files are read
                adapt(base, Adaptation(task=spec.task, method=changed.method, labels=labels, seed=0))
            epochs = resolve_auto(changed, costs.train).training.epochs
        except (RegraftError, NotImplementedError, RuntimeError) as error:
            left_out.append(LeftOut(name, error.message if isinstance(error, RegraftError) else str(error)))
            continue
        assert isinstance(epochs, int)
        tried.append(TriedMethod(changed.method, varied, passes, epochs, costs))
    return sorted(tried, key=lambda one: (one.seconds(1), not one.head_alone)), left_out


def _passes(method: Method, anatomy: Anatomy) -> float:
    """Return the forward passes that a training step costs: gradients end where the frozen blocks begin."""
    blocks = len(anatomy.blocks)
    frozen = method.depth_of(anatomy) / blocks if blocks else 0.0
    return 1 + BACKWARD * (1 - frozen)
