"""Classifiers that read only the first token: after its attention, their last block computes no other token.

After its attention, an encoder block computes each token independently. That is three quarters of its work. Only the
head reads the last block's tokens. In BERT's family that part is `attention.output`, a function of the attention's
states and of the block's input; it gets the first token only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from regraft.contracts import Batch, Task
from regraft.serving.engine.base_weights import Frame
from regraft.serving.engine.dummy_rows import probes
from regraft.serving.engine.forward import batch_of
from regraft.serving.engine.shared_trunk import TOLERANCE
from regraft.trunk.trace import tensors_in

log = logging.getLogger(__name__)

Change = Callable[[Tensor], Tensor]


def compute_cls_only(frame: Frame) -> bool:
    """Limit the frame's last block to the first token if its outputs prove that no other is read; return whether it is.

    The frame must not be a prefix frame: another task may read the tokens that it leaves out.
    """
    layer = _attention_output(frame)
    if layer is None or type(frame.adapted.task).predict_forward is not Task.predict_forward:
        return False
    try:
        with frame.tokenizer_lock:
            short, long = probes(frame.adapted)
        batch = batch_of(frame, [*short, *long])
        plain = _outputs(frame, batch)
        # NaN spreads to everything that reads it, so that equal outputs are a proof.
        proof = _hook_inputs(layer, _nan_but_first)
        try:
            first_only = _within(_outputs(frame, batch), plain, 0.0)
        finally:
            proof.remove()
        return first_only and _install(frame, layer, batch, plain)
    except Exception as error:
        log.info("%s computes all tokens: %s", frame.adapted.task.key(), error)
        return False


def _install(frame: Frame, layer: nn.Module, batch: Batch, plain: Sequence[Tensor]) -> bool:
    """Give the layer the first token only from now on, unless that changes the outputs."""
    hook, kept = _hook_inputs(layer, _first), False
    try:
        kept = _within(_outputs(frame, batch), plain, TOLERANCE[frame.weights.dtype])
    finally:
        if not kept:
            hook.remove()
    return kept


def _attention_output(frame: Frame) -> nn.Module | None:
    blocks = frame.adapted.anatomy.blocks
    try:
        return frame.adapted.model.get_submodule(f"{blocks[-1]}.attention.output") if blocks else None
    except AttributeError:
        return None


def _hook_inputs(layer: nn.Module, change: Change) -> RemovableHandle:
    """Install a hook that changes the layer's inputs; it raises ValueError where the layer is not like BERT's."""

    def changed(_: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        if len(args) != 2 or any(not isinstance(one, Tensor) or one.ndim != 3 for one in args):
            raise ValueError("its last block is not like BERT's")
        return tuple(change(one) for one in args)

    return layer.register_forward_pre_hook(changed)


def _nan_but_first(states: Tensor) -> Tensor:
    found = torch.full_like(states, float("nan"))
    found[:, :1] = states[:, :1]
    return found


def _first(states: Tensor) -> Tensor:
    return states[:, :1]


def _outputs(frame: Frame, batch: Batch) -> list[Tensor]:
    with frame.weights.inference_context():
        return list(tensors_in(frame.adapted.forward(dict(batch))))


def _within(found: Sequence[Tensor], wanted: Sequence[Tensor], bound: float) -> bool:
    if not wanted or [one.shape for one in found] != [one.shape for one in wanted]:
        return False
    pairs = [(one.float(), other.float()) for one, other in zip(found, wanted, strict=True)]
    return all(bool(((one - other).abs() <= bound * other.abs().max()).all()) for one, other in pairs)
