"""Verification that a cut model computes what the complete one does: outputs, gradients and the task's loss of both."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch
from regraft.trunk.cut import BoundaryTensors, Cut, NotCut
from regraft.trunk.shapes import sizes_of
from regraft.trunk.trace import tensors_in

SMALLEST = 1e-12
"""The smallest scale of a relative deviation."""


def relative_deviation(actual: Tensor, expected: Tensor, scale: float | None = None) -> float:
    """Return the largest absolute difference over `scale`, by default the largest absolute expected value.

    Infinite for different shapes, 0 for tensors without elements.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    dtype = torch.promote_types(expected.dtype, torch.float32)
    actual, expected = actual.to(dtype), expected.to(dtype)
    largest = float(expected.abs().max()) if scale is None else scale
    return float((actual - expected).abs().max()) / max(SMALLEST, largest)


def difference(
    adapted: Adapted, cut: Cut, batch: Batch, tensors: BoundaryTensors, *, given: Batch | None = None
) -> float:
    """Return the relative deviation of the cut model's outputs and gradients from the complete model's on a batch.

    `given` is passed to the cut model in place of the batch. The model is left in train mode, otherwise unchanged.
    """
    complete = _outputs_and_gradients(adapted, batch)
    bypassed = bypassed_copy(adapted, cut, batch, tensors)
    cut_off = _outputs_and_gradients(adapted, batch if given is None else given, bypassed)
    if len(complete) != len(cut_off):
        return float("inf")
    return max((relative_deviation(two, one) for one, two in zip(complete, cut_off, strict=True)), default=0.0)


def _outputs_and_gradients(
    adapted: Adapted, batch: Batch, inside: AbstractContextManager[None] | None = None
) -> list[Tensor]:
    """Return outputs and gradients of one pass in train mode, and restore buffers such as running statistics.

    The backward pass runs outside of `inside`, as in a training step: blocks that recompute their activations then run
    again without the bypasses.
    """
    adapted.train_mode()
    trained = [parameter for parameter in adapted.model.parameters() if parameter.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in adapted.model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]), inside or nullcontext():
            torch.manual_seed(0)
            outputs = [output for output in tensors_in(adapted.forward(batch)) if output.requires_grad]
        if not outputs:
            raise NotCut("no output of the model depends on what trains")
        total = torch.stack([output.float().square().mean() for output in outputs]).sum()
        gradients = torch.autograd.grad(total, trained, allow_unused=True)
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return [*(output.detach() for output in outputs), *map(_zero_if_unused, gradients)]


def loss_difference(adapted: Adapted, cut: Cut, batch: Batch, tensors: BoundaryTensors, *, given: Batch) -> float:
    """Return the relative deviation of the task's loss and its gradients from the complete model's.

    The cut model gets the batch `given` and boundary values that were stored row by row. Gradients are compared on the
    scale of the largest of them.
    """
    loss, *gradients = _loss_and_gradients(adapted, batch)
    cut_loss, *cut_gradients = _loss_and_gradients(adapted, given, bypassed_copy(adapted, cut, batch, tensors))
    scale = max((float(one.abs().max()) for one in gradients if one.numel()), default=0.0)
    pairs = zip(gradients, cut_gradients, strict=True)
    return max(relative_deviation(cut_loss, loss), *(relative_deviation(two, one, scale) for one, two in pairs))


def bypassed_copy(adapted: Adapted, cut: Cut, batch: Batch, tensors: BoundaryTensors) -> AbstractContextManager[None]:
    """Return `Cut.bypassed` for a batch on a copy of the tensors: a dropout after the cut may work in place."""
    copy = {key: value.clone() for key, value in tensors.items()}
    return cut.bypassed(adapted.model, copy, sizes_of(batch))


def _loss_and_gradients(
    adapted: Adapted, batch: Batch, inside: AbstractContextManager[None] | None = None
) -> list[Tensor]:
    """Return a batch's loss and its gradients in eval mode, in which nothing is random and no statistics move."""
    adapted.eval_mode()
    trained = [parameter for parameter in adapted.model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[]), inside or nullcontext():
        torch.manual_seed(0)
        total, weight = adapted.task.loss(adapted.forward(batch), batch, adapted.context)
    gradients = torch.autograd.grad(total / weight.clamp(min=SMALLEST), trained, allow_unused=True)
    return [total.detach(), *map(_zero_if_unused, gradients)]


def _zero_if_unused(gradient: Tensor | None) -> Tensor:
    return torch.zeros(()) if gradient is None else gradient
