"""Is a cut model the whole one? Outputs, gradients and the task's loss of both, side by side."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch
from regraft.trunk.cut import Boundary, Cut, NotCut
from regraft.trunk.shapes import sizes_of
from regraft.trunk.trace import tensors_in


def difference(
    adapted: Adapted, cut: Cut, batch: Batch, boundary: Boundary, *, given: Batch | None = None, seed: int = 0
) -> float:
    """How far outputs and gradients of the cut model are from the whole one's on a batch: the largest absolute
    difference over the largest absolute value of that tensor.

    `given` is what the cut model gets instead of the batch. The model is left in train mode, otherwise as it was.
    """
    whole = _pass(adapted, batch, seed)
    parted = _pass(adapted, batch if given is None else given, seed, stand_in(adapted, cut, batch, boundary))
    if len(whole) != len(parted) or any(one.shape != two.shape for one, two in zip(whole, parted, strict=True)):
        return float("inf")
    distances = [_distance(one, two) for one, two in zip(whole, parted, strict=True)]
    return max(distances, default=0.0)


def _pass(
    adapted: Adapted, batch: Batch, seed: int, inside: AbstractContextManager[None] | None = None
) -> list[Tensor]:
    """Outputs and gradients of one pass in train mode; statistics are put back.

    The backward pass runs outside of `inside`, as that of a step does: blocks that recompute their activations then run
    again, without what stood in.
    """
    adapted.train_mode()
    trained = [parameter for parameter in adapted.model.parameters() if parameter.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in adapted.model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]), inside or nullcontext():
            torch.manual_seed(seed)
            outputs = [output for output in tensors_in(adapted.forward(batch)) if output.requires_grad]
        if not outputs:
            raise NotCut("no output of the model depends on what trains")
        total = torch.stack([output.float().square().mean() for output in outputs]).sum()
        gradients = torch.autograd.grad(total, trained, allow_unused=True)
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    moved = [torch.zeros(()) if gradient is None else gradient for gradient in gradients]
    return [*(output.detach() for output in outputs), *moved]


def loss_difference(adapted: Adapted, cut: Cut, batch: Batch, boundary: Boundary, given: Batch, seed: int = 0) -> float:
    """How far the task's loss and its gradients are from the whole model's, when the cut one gets `given` and a
    boundary that was kept row by row: the largest difference over the largest value."""
    whole = _loss(adapted, batch, seed)
    parted = _loss(adapted, given, seed, stand_in(adapted, cut, batch, boundary))
    gradients = max((float(one.abs().max()) for one in whole[1:] if one.numel()), default=0.0)
    scales = [max(1e-12, abs(float(whole[0]))), *[max(1e-12, gradients)] * (len(whole) - 1)]
    pairs = zip(whole, parted, scales, strict=True)
    return max(float((one - two).abs().max()) / scale for one, two, scale in pairs if one.numel())


def stand_in(adapted: Adapted, cut: Cut, batch: Batch, boundary: Boundary) -> AbstractContextManager[None]:
    """`Cut.standing_in` for a batch, on a copy of the boundary: a dropout behind it may work in place."""
    copy = {key: value.clone() for key, value in boundary.items()}
    return cut.standing_in(adapted.model, copy, sizes_of(batch))


def _loss(
    adapted: Adapted, batch: Batch, seed: int, inside: AbstractContextManager[None] | None = None
) -> list[Tensor]:
    """The loss of a batch in eval mode, where nothing is drawn and no statistics move, and its gradients."""
    adapted.eval_mode()
    trained = [parameter for parameter in adapted.model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[]), inside or nullcontext():
        torch.manual_seed(seed)
        total, weight = adapted.task.loss(adapted.forward(batch), batch, adapted.context)
    gradients = torch.autograd.grad(total / weight.clamp(min=1e-12), trained, allow_unused=True)
    return [total.detach(), *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)]


def _distance(one: Tensor, two: Tensor) -> float:
    scale = max(1e-12, float(one.abs().max())) if one.numel() else 1.0
    return float((one - two).abs().max()) / scale if one.numel() else 0.0
