"""Where do models of one base part? Found by cutting them, tried on made-up rows, used only where nothing changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from regraft.contracts import Example
from regraft.methods.feature_extraction import FeatureExtraction
from regraft.serving.engine.base_weights import Frame
from regraft.serving.engine.dummy_rows import probes
from regraft.serving.engine.forward import Asked, Own, Tail, batch_of, carried, shared, whole
from regraft.serving.engine.multi_lora import NotStacked, linear_heads
from regraft.trunk.boundary import Part
from regraft.trunk.cut import Cut, NotCut, capture, find_cut
from regraft.trunk.trace import tensors_in

log = logging.getLogger(__name__)

AGREES = {torch.float32: 1e-5, torch.bfloat16: 0.1}
"""How far a shared pass may be from the model's own, relative to the largest value."""


def find_tail(frame: Frame, carriers: Iterable[Frame], guard: AbstractContextManager[object]) -> Tail:
    """The frame's tail behind the first of the carriers that computes what the frame itself would; NotCut when it has
    none. Passes of the carriers run under `guard`. The frame has worn no delta yet: what trains shows where to cut.
    """
    adapted = frame.adapted
    short, long = probes(adapted)
    batch = batch_of(frame, long)
    with frame.weights.arithmetic():
        cut = find_cut(adapted, batch_of(frame, short), batch)
        adapted.eval_mode()
        own = capture(adapted, batch, cut.kept)
    for carrier in carriers:
        if carrier is frame:
            parts: dict[str, Part] | None = {part.key: part for part in cut.kept}
        else:
            with guard:
                parts = _carried_by(carrier, frame, cut, long, own)
        if parts is not None:
            heads = isinstance(adapted.method, FeatureExtraction)
            return Tail(frame, cut, carrier, parts, _layers(frame) if heads else None)
    raise NotCut("no other model of its base computes what it needs")


def _layers(frame: Frame) -> dict[str, str] | None:
    try:
        return linear_heads(frame.adapted, list(frame.like))
    except NotStacked as reason:
        log.info("heads of %s are computed one model after the other: %s", frame.adapted.task.key(), reason)
        return None


def _carried_by(
    carrier: Frame, frame: Frame, cut: Cut, examples: Sequence[Example], own: dict[str, Tensor]
) -> dict[str, Part] | None:
    """The carrier's name for each of the frame's kept parts, if it gives the same values there."""
    here, there = frame.adapted.anatomy.prefix, carrier.adapted.anatomy.prefix
    parts = {part.key: replace(part, module=_renamed(part.module, here, there)) for part in cut.kept}
    asked = Own(frame, {}, frame.adapted.context)
    try:
        with frame.weights.arithmetic():
            batch = carried(carrier, [Asked(asked, example, None) for example in examples])
            found = capture(carrier.adapted, batch, parts.values())
        pairs = [(found[part.key], own[key]) for key, part in parts.items()]
    except Exception as error:
        log.info("%s does not compute for %s: %s", carrier.adapted.task.key(), frame.adapted.task.key(), error)
        return None
    return parts if all(_apart(*pair) <= AGREES[frame.weights.dtype] for pair in pairs) else None


def _renamed(module: str, here: str, there: str) -> str:
    if module == here:
        return there
    bare = module.removeprefix(f"{here}.") if here else module
    return f"{there}.{bare}" if there else bare


def agrees(own: Own) -> str:
    """In what a model's rows come out otherwise in a shared pass than in one of its own; empty when they do not.

    They are computed beside shorter rows of another model on the same tail.
    """
    assert own.tail is not None
    with own.tail.frame.reading:  # that frame may be answering others already
        short, long = probes(own.tail.frame.adapted)
    other = _ordinary(own.tail)
    rows = [Asked(own, example, number) for number, example in enumerate(long)]
    mixed = [*rows, *(Asked(other, example, -1 - number) for number, example in enumerate(short))]
    with own.frame.weights.arithmetic():
        alone = tensors_in(whole(rows).output)
        found = [part for part in shared(mixed) if part.own is own]
        together = [tensors_in(part.output) for part in found]
    if len(together) != 1 or len(together[0]) != len(alone):
        return "it has other outputs"
    apart = max((_apart(one, two) for one, two in zip(together[0], alone, strict=True)), default=float("inf"))
    return "" if apart <= 10 * AGREES[own.frame.weights.dtype] else f"its outputs differ by {apart:.1e} of the largest"


def _ordinary(tail: Tail) -> Own:
    """A model of zeros."""
    device = tail.frame.weights.device
    zeros = {n: torch.zeros(like.shape, dtype=like.dtype, device=device) for n, like in tail.frame.like.items()}
    return Own(tail.frame, zeros, tail.frame.adapted.context, tail, zeros)


def _apart(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    return float((one.float() - two.float()).abs().max()) / max(1e-12, float(two.float().abs().max()))
