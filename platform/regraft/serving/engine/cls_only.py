"""A classifier that reads nothing but the first token: its last block need not compute the others.

Behind its attention an encoder's block computes each token by itself, which is three quarters of its work, and the last
block's tokens are read by the head alone. What BERT's family has there (`attention.output`, of the attention's states
and the block's own input) is given the first token only.
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
from regraft.serving.engine.shared_trunk import AGREES
from regraft.trunk.trace import tensors_in

log = logging.getLogger(__name__)

Change = Callable[[Tensor], Tensor]


def compute_cls_only(frame: Frame) -> bool:
    """Let the frame's last block compute the first token alone where its outputs show that no other is read; whether it
    does from now on. The frame must be nobody's carrier: another task may read what it leaves out."""
    layer = _behind_attention(frame)
    if layer is None or type(frame.adapted.task).predict_forward is not Task.predict_forward:
        return False
    try:
        with frame.tokenizer_lock:
            short, long = probes(frame.adapted)
        batch = batch_of(frame, [*short, *long])
        plain = _outputs(frame, batch)
        # What is no number makes all that reads it none, so that equal outputs are a proof.
        proof = _changing(layer, _spoilt)
        try:
            alone = _within(_outputs(frame, batch), plain, 0.0)
        finally:
            proof.remove()
        return alone and _settled(frame, layer, batch, plain)
    except Exception as error:
        log.info("%s computes all tokens: %s", frame.adapted.task.key(), error)
        return False


def _settled(frame: Frame, layer: nn.Module, batch: Batch, plain: Sequence[Tensor]) -> bool:
    """The layer changed for good, unless the outputs are then others."""
    hook, kept = _changing(layer, _first), False
    try:
        kept = _within(_outputs(frame, batch), plain, AGREES[frame.weights.dtype])
    finally:
        if not kept:
            hook.remove()
    return kept


def _behind_attention(frame: Frame) -> nn.Module | None:
    blocks = frame.adapted.anatomy.blocks
    try:
        return frame.adapted.model.get_submodule(f"{blocks[-1]}.attention.output") if blocks else None
    except AttributeError:
        return None


def _changing(layer: nn.Module, change: Change) -> RemovableHandle:
    """A hook that changes the states before the layer; ValueError in it where the layer is another one than BERT's."""

    def changed(_: nn.Module, given: tuple[Any, ...]) -> tuple[Tensor, ...]:
        if len(given) != 2 or any(not isinstance(one, Tensor) or one.ndim != 3 for one in given):
            raise ValueError("its last block is another one than BERT's")
        return tuple(change(one) for one in given)

    return layer.register_forward_pre_hook(changed)


def _spoilt(states: Tensor) -> Tensor:
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
