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
from regraft.serving.engine.forward import LoadedModel, RoutedExample, Suffix, batch_of, carried, shared, whole
from regraft.serving.engine.multi_lora import NotStackable, linear_heads
from regraft.trunk.boundary import Boundary
from regraft.trunk.cut import Cut, NotCut, capture, find_cut
from regraft.trunk.trace import tensors_in
from regraft.trunk.verify import relative_deviation

log = logging.getLogger(__name__)

AGREES = {torch.float32: 1e-5, torch.bfloat16: 0.1}
"""How far a shared pass may be from the model's own, relative to the largest value."""


def find_suffix(frame: Frame, prefix_frames: Iterable[Frame], guard: AbstractContextManager[object]) -> Suffix:
    """The frame's tail behind the first of the carriers that computes what the frame itself would; NotCut when it has
    none. Passes of the carriers run under `guard`. The frame has worn no delta yet: what trains shows where to cut.
    """
    adapted = frame.adapted
    short, long = probes(adapted)
    batch = batch_of(frame, long)
    with frame.weights.inference_context():
        cut = find_cut(adapted, batch_of(frame, short), batch)
        adapted.eval_mode()
        loaded = capture(adapted, batch, cut.kept)
    for prefix_frame in prefix_frames:
        if prefix_frame is frame:
            parts: dict[str, Boundary] | None = {part.key: part for part in cut.kept}
        else:
            with guard:
                parts = _carried_by(prefix_frame, frame, cut, long, loaded)
        if parts is not None:
            heads = isinstance(adapted.method, FeatureExtraction)
            return Suffix(frame, cut, prefix_frame, parts, _layers(frame) if heads else None)
    raise NotCut("no other model of its base computes what it needs")


def _layers(frame: Frame) -> dict[str, str] | None:
    try:
        return linear_heads(frame.adapted, list(frame.delta_shapes))
    except NotStackable as reason:
        log.info("heads of %s are computed one model after the other: %s", frame.adapted.task.key(), reason)
        return None


def _carried_by(
    prefix_frame: Frame, frame: Frame, cut: Cut, examples: Sequence[Example], loaded: dict[str, Tensor]
) -> dict[str, Boundary] | None:
    """The carrier's name for each of the frame's kept parts, if it gives the same values there."""
    here, there = frame.adapted.anatomy.prefix, prefix_frame.adapted.anatomy.prefix
    parts = {part.key: replace(part, module=_renamed(part.module, here, there)) for part in cut.kept}
    asked = LoadedModel(frame, {}, frame.adapted.context)
    try:
        with frame.weights.inference_context():
            batch = carried(prefix_frame, [RoutedExample(asked, example, None) for example in examples])
            found = capture(prefix_frame.adapted, batch, parts.values())
        pairs = [(found[part.key], loaded[key]) for key, part in parts.items()]
    except Exception as error:
        log.info("%s does not compute for %s: %s", prefix_frame.adapted.task.key(), frame.adapted.task.key(), error)
        return None
    return parts if all(relative_deviation(*pair) <= AGREES[frame.weights.dtype] for pair in pairs) else None


def _renamed(module: str, here: str, there: str) -> str:
    if module == here:
        return there
    bare = module.removeprefix(f"{here}.") if here else module
    return f"{there}.{bare}" if there else bare


def agrees(loaded: LoadedModel) -> str:
    """In what a model's rows come out otherwise in a shared pass than in one of its own; empty when they do not.

    They are computed beside shorter rows of another model on the same tail.
    """
    assert loaded.suffix is not None
    with loaded.suffix.frame.tokenizer_lock:  # that frame may be answering others already
        short, long = probes(loaded.suffix.frame.adapted)
    other = _ordinary(loaded.suffix)
    rows = [RoutedExample(loaded, example, number) for number, example in enumerate(long)]
    mixed = [*rows, *(RoutedExample(other, example, -1 - number) for number, example in enumerate(short))]
    with loaded.frame.weights.inference_context():
        alone = tensors_in(whole(rows).output)
        found = [part for part in shared(mixed) if part.loaded is loaded]
        together = [tensors_in(part.output) for part in found]
    if len(together) != 1 or len(together[0]) != len(alone):
        return "it has other outputs"
    apart = max(
        (relative_deviation(one, two) for one, two in zip(together[0], alone, strict=True)), default=float("inf")
    )
    return (
        "" if apart <= 10 * AGREES[loaded.frame.weights.dtype] else f"its outputs differ by {apart:.1e} of the largest"
    )


def _ordinary(suffix: Suffix) -> LoadedModel:
    """A model of zeros."""
    device = suffix.frame.weights.device
    zeros = {
        n: torch.zeros(like.shape, dtype=like.dtype, device=device) for n, like in suffix.frame.delta_shapes.items()
    }
    return LoadedModel(suffix.frame, zeros, suffix.frame.adapted.context, suffix, zeros)
