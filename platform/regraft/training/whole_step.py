"""Losses that compare the rows of a step with one another: over all ranks, and over micro-batches by cached gradients.

With several micro-batches a step runs twice through the model. The first pass gives the values of all rows without
keeping activations, and the loss gives each value's gradient; the second pass takes it back through the model, one
micro-batch at a time (GradCache, Gao et al., 2021). Dropout is seeded by micro-batch, so both passes draw the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regraft.contracts import Context, Task
from regraft.training.gathering import gather_rows

Labels = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class CachedLoss:
    """The loss of a step that was computed before the pass which takes its gradient back through the model."""

    loss: Tensor
    """The loss of the step, a scalar."""
    gradients: list[Tensor]
    """For each micro-batch of this rank, the gradient of (loss x rows of all ranks) by the micro-batch's values."""

    def of(self, micro: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loss x rows, rows) of a micro-batch, with the cached gradient by its values."""
        carried = (values * self.gradients[micro]).sum()
        weight = torch.tensor(float(len(values)), device=values.device)
        return carried - carried.detach() + self.loss * weight, weight


def whole_step_loss(
    task: Task, values: Tensor, labels: Labels, context: Context, *, real: bool = True
) -> tuple[Tensor, Tensor]:
    """Return (the step's loss x this rank's rows, the number of these rows).

    A rank whose rows are not `real` adds none of them. Every rank must call this at the same time.
    """
    loss = _loss(task, values, labels, context, count=len(values) if real else 0)
    weight = torch.tensor(float(len(values)), device=values.device)
    return loss * weight, weight


def cached_loss(
    task: Task, values: Sequence[Tensor], labels: Sequence[Labels], context: Context, *, real: Sequence[bool]
) -> CachedLoss:
    """Return the loss of a step and its gradients, from the values and labels of this rank's micro-batches.

    Micro-batches that are not `real` take no part, and their gradients are 0.
    """
    kept = [number for number, counts in enumerate(real) if counts]
    own = torch.cat([values[number] for number in kept] or [values[0][:0]]).detach().requires_grad_()
    chosen = [labels[number] for number in kept] or [{name: label[:0] for name, label in labels[0].items()}]
    joined = {name: torch.cat([one[name] for one in chosen]) for name in chosen[0]}
    with torch.enable_grad():
        loss = _loss(task, own, joined, context, count=len(own))
        torch.autograd.backward(loss * float(len(own)))
    found = torch.zeros_like(own) if own.grad is None else own.grad
    parts = dict(zip(kept, torch.split(found, [len(values[number]) for number in kept]), strict=True)) if kept else {}
    return CachedLoss(loss.detach(), [parts.get(number, torch.zeros_like(one)) for number, one in enumerate(values)])


def _loss(task: Task, values: Tensor, labels: Labels, context: Context, *, count: int) -> Tensor:
    """Return the loss of the first `count` rows of every rank, a scalar that is equal on all of them."""
    every = gather_rows(values, count)
    named = {name: gather_rows(label, count) for name, label in labels.items()}
    # Products rounded to 16 bits would make noise of the differences between rows.
    with torch.autocast(values.device.type, enabled=False):
        return task.step_loss(every.float(), named, context)
