"""The prefix that models of one base share: found by cutting them, and verified on dummy rows before it is used."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from regraft.contracts import Example
from regraft.serving.engine.base_weights import Frame
from regraft.serving.engine.dummy_rows import probes
from regraft.serving.engine.forward import (
    LoadedModel,
    RoutedExample,
    Suffix,
    batch_of,
    forward_alone,
    forward_shared,
    prefix_batch,
)
from regraft.serving.engine.multi_lora import NotStackable, linear_heads
from regraft.trunk.boundary import Boundary
from regraft.trunk.cut import Cut, NotCut, capture, find_cut
from regraft.trunk.trace import tensors_in
from regraft.trunk.verify import relative_deviation

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}
"""Largest accepted deviation of a shared pass from the model's own, relative to the largest value."""


def find_suffix(frame: Frame, prefix_frames: Iterable[Frame], guard: AbstractContextManager[object]) -> Suffix:
    """Return the frame's suffix after the first prefix frame that gives the frame's own results.

    Passes of the prefix frames run under `guard`. The frame must not have loaded a delta yet: its trainable parameters
    show where to cut. Raises NotCut when no prefix frame fits.
    """
    adapted = frame.adapted
    short, long = probes(adapted)
    batch = batch_of(frame, long)
    with frame.weights.inference_context():
        cut = find_cut(adapted, batch_of(frame, short), batch)
        adapted.eval_mode()
        expected = capture(adapted, batch, cut.kept)
    for prefix_frame in prefix_frames:
        if prefix_frame is frame:
            boundary: dict[str, Boundary] | None = {part.key: part for part in cut.kept}
        else:
            with guard:
                boundary = _boundary_in(prefix_frame, frame, cut, long, expected=expected)
        if boundary is not None:
            heads_only = adapted.method.serves == "head"
            return Suffix(frame, cut, prefix_frame, boundary, _head_layers(frame) if heads_only else None)
    raise NotCut("no other model of its base computes what it needs")


def _head_layers(frame: Frame) -> dict[str, str] | None:
    try:
        return linear_heads(frame.adapted, list(frame.delta_shapes))
    except NotStackable as reason:
        log.info("heads of %s are computed one model after the other: %s", frame.adapted.task.key(), reason)
        return None


def _boundary_in(
    prefix_frame: Frame, frame: Frame, cut: Cut, examples: Sequence[Example], *, expected: dict[str, Tensor]
) -> dict[str, Boundary] | None:
    """Return the prefix frame's value for each of the frame's boundary values, or None where any value differs."""
    here, there = frame.adapted.anatomy.prefix, prefix_frame.adapted.anatomy.prefix
    boundary = {part.key: replace(part, module=_renamed(part.module, here, there)) for part in cut.kept}
    loaded = LoadedModel(frame, {}, frame.adapted.context)
    try:
        with frame.weights.inference_context():
            batch = prefix_batch(prefix_frame, [RoutedExample(loaded, example, None) for example in examples])
            found = capture(prefix_frame.adapted, batch, boundary.values())
        pairs = [(found[part.key], expected[key]) for key, part in boundary.items()]
    except Exception as error:
        log.info("%s cannot compute for %s: %s", prefix_frame.adapted.task.key(), frame.adapted.task.key(), error)
        return None
    tolerance = TOLERANCE[frame.weights.dtype]
    return boundary if all(relative_deviation(*pair) <= tolerance for pair in pairs) else None


def _renamed(module: str, here: str, there: str) -> str:
    if module == here:
        return there
    bare = module.removeprefix(f"{here}.") if here else module
    return f"{there}.{bare}" if there else bare


def shared_pass_mismatch(loaded: LoadedModel) -> str:
    """Describe how a shared pass changes a model's outputs; empty when they are equal to those of its own pass.

    The model's rows are computed beside shorter rows of another model with the same suffix.
    """
    assert loaded.suffix is not None
    with loaded.suffix.frame.tokenizer_lock:  # the frame may already answer for other models
        short, long = probes(loaded.suffix.frame.adapted)
    other = _zero_model(loaded.suffix)
    rows = [RoutedExample(loaded, example, number) for number, example in enumerate(long)]
    mixed = [*rows, *(RoutedExample(other, example, -1 - number) for number, example in enumerate(short))]
    with loaded.frame.weights.inference_context():
        alone = tensors_in(forward_alone(rows).output)
        outputs = [tensors_in(part.output) for part in forward_shared(mixed) if part.loaded is loaded]
    if len(outputs) != 1 or len(outputs[0]) != len(alone):
        return "it has other outputs"
    deviations = [relative_deviation(one, two) for one, two in zip(outputs[0], alone, strict=True)]
    deviation = max(deviations, default=float("inf"))
    if deviation <= 10 * TOLERANCE[loaded.frame.weights.dtype]:
        return ""
    return f"its outputs differ by {deviation:.1e} of the largest"


def _zero_model(suffix: Suffix) -> LoadedModel:
    """Return a model with this suffix whose delta is zero."""
    frame, device = suffix.frame, suffix.frame.weights.device
    zeros = {n: torch.zeros(like.shape, dtype=like.dtype, device=device) for n, like in frame.delta_shapes.items()}
    return LoadedModel(frame, zeros, frame.adapted.context, suffix, zeros)
