"""Forward passes for rows of many models: the shared prefix is computed once, and each model's suffix after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from regraft.contracts import Batch, Context, Example, Task
from regraft.serving.engine.base_weights import BaseWeights, Delta, Frame
from regraft.serving.engine.multi_lora import Factors, per_row_heads, row_factors
from regraft.serving.predictor import to_device
from regraft.trunk.boundary import Boundary
from regraft.trunk.cut import Cut, capture
from regraft.trunk.shapes import sizes_of


@dataclass(frozen=True, eq=False)
class Suffix:
    """The part of a model after a shared prefix: the frame that computes the prefix, and the values it starts from."""

    frame: Frame
    """Computes the suffix."""
    cut: Cut
    prefix_frame: Frame
    """Computes the prefix, on the same base; its task may be another one."""
    boundary: Mapping[str, Boundary]
    """For each boundary value of `cut`, by key, the prefix frame's value that supplies it."""
    head_layers: Mapping[str, str] | None
    """Linear layers of the head whose weights may differ per row (`linear_heads`); None: one pass for each model."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model's own tensors, and how its rows are computed."""

    frame: Frame
    delta: Delta
    context: Context
    suffix: Suffix | None = None
    """None: its rows are computed by forward passes of the complete model."""
    suffix_delta: Delta = field(default_factory=dict)
    """The delta that the suffix's frame loads for it."""
    factors: Factors | None = None
    """LoRA factors that are added to the prefix frame's layers."""

    @property
    def task(self) -> Task:
        """The task, which encodes rows and turns outputs into answers."""
        return self.frame.adapted.task


@dataclass(frozen=True, eq=False)
class RoutedExample:
    """An encoded row and the model that answers it."""

    loaded: LoadedModel
    example: Example
    key: Any
    """Equal for rows that give the model the same inputs."""


@dataclass(frozen=True)
class PassOutput:
    """The output for some of the rows, all of one model, and the batch that it was computed from."""

    positions: list[int]
    loaded: LoadedModel
    output: Any
    batch: Batch


@dataclass(frozen=True)
class _PrefixOutput:
    """Boundary values of a pass over the distinct inputs of some rows."""

    values: Mapping[str, Tensor]
    positions: Sequence[int]
    """For each row, the position of its input in the pass."""
    inputs: int

    def boundary_of(self, suffix: Suffix, group: Sequence[int], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the values that a suffix reads for the rows `group`, in the sizes of their batch."""
        values = {key: self.values[part.key] for key, part in suffix.boundary.items()}
        return suffix.cut.take(values, [self.positions[number] for number in group], self.inputs, sizes)


def forward_alone(rows: Sequence[RoutedExample]) -> PassOutput:
    """Compute rows of one model by a forward pass of the complete model."""
    loaded = rows[0].loaded
    loaded.frame.load_delta(loaded.delta)
    batch = batch_of(loaded.frame, [row.example for row in rows])
    adapted = loaded.frame.adapted
    output = loaded.task.predict_forward(adapted.forward, adapted.model, batch, loaded.context)
    return PassOutput(list(range(len(rows))), loaded, output, batch)


def forward_shared(rows: Sequence[RoutedExample]) -> Iterator[PassOutput]:
    """Compute rows of any models whose suffixes have the same prefix frame; their images must have one size.

    The prefix frame computes each input once for all models without LoRA factors, and once for each model with factors.
    """
    suffixes = [suffix for row in rows if (suffix := row.loaded.suffix) is not None]
    prefix = _prefix_output(suffixes, rows)
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, (row, suffix) in enumerate(zip(rows, suffixes, strict=True)):
        groups[id(suffix), None if suffix.head_layers is not None else id(row.loaded)].append(number)
    for group in groups.values():
        yield from _suffix_outputs(suffixes[group[0]], rows, group, prefix)


def _prefix_output(suffixes: Sequence[Suffix], rows: Sequence[RoutedExample]) -> _PrefixOutput:
    frame = suffixes[0].prefix_frame
    known: dict[Any, int] = {}
    distinct: list[RoutedExample] = []
    positions = []
    for row in rows:
        position = known.setdefault((id(row.loaded.factors) if row.loaded.factors else 0, row.key), len(distinct))
        if position == len(distinct):
            distinct.append(row)
        positions.append(position)
    boundary = {part.key: part for suffix in suffixes for part in suffix.boundary.values()}
    factors = [row.loaded.factors for row in distinct]
    with row_factors(frame.adapted, factors) if any(factors) else nullcontext():
        values = capture(frame.adapted, prefix_batch(frame, distinct), boundary.values())
    return _PrefixOutput(values, positions, len(distinct))


def _suffix_outputs(
    suffix: Suffix, rows: Sequence[RoutedExample], group: list[int], prefix: _PrefixOutput
) -> Iterator[PassOutput]:
    batch = batch_of(suffix.frame, [rows[number].example for number in group])
    sizes = sizes_of(batch)
    boundary = prefix.boundary_of(suffix, group, sizes)
    models: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(group):
        models[id(rows[number].loaded)].append(place)
    with (
        suffix.cut.bypassed(suffix.frame.adapted.model, boundary, sizes),
        _heads(suffix, [rows[number].loaded for number in group], models),
    ):
        output = suffix.frame.adapted.forward(batch)
    for places in models.values():
        alone = len(models) == 1
        yield PassOutput(
            [group[place] for place in places],
            rows[group[places[0]]].loaded,
            output if alone else select_rows(output, places, len(group)),
            batch if alone else select_batch_rows(batch, places, len(group)),
        )


def _heads(
    suffix: Suffix, loaded_models: Sequence[LoadedModel], models: Mapping[int, Any]
) -> AbstractContextManager[None]:
    """Load the one model's delta, or return a context in which each row has its own head."""
    if len(models) == 1:
        suffix.frame.load_delta(loaded_models[0].suffix_delta)
        return nullcontext()
    assert suffix.head_layers is not None
    return per_row_heads(suffix.frame.adapted, suffix.head_layers, [loaded.suffix_delta for loaded in loaded_models])


def batch_of(frame: Frame, examples: Sequence[Example]) -> Batch:
    """Collate examples of the frame's task into a batch on the frame's device."""
    adapted = frame.adapted
    return to_base_device(adapted.task.collate([dict(example) for example in examples], adapted.context), frame.weights)


def prefix_batch(prefix_frame: Frame, rows: Sequence[RoutedExample]) -> Batch:
    """Collate examples of any tasks into a batch for the prefix frame; another task's labels are dropped."""
    task = type(prefix_frame.adapted.task)
    return batch_of(
        prefix_frame,
        [
            row.example if type(row.loaded.task) is task else {n: v for n, v in row.example.items() if n != "labels"}
            for row in rows
        ],
    )


def to_base_device(batch: Batch, weights: BaseWeights) -> Batch:
    """Return a batch on the base's device, with floating-point inputs (images) in the base's precision."""
    moved = to_device(batch, weights.device)
    return {
        name: value.to(weights.dtype)
        if name != "labels" and isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in moved.items()
    }


def select_rows(output: Any, places: Sequence[int], rows: int) -> Any:
    """Return the part of an output that belongs to some rows of a batch of `rows`."""
    leaves, tree = tree_flatten(output)
    if leaves == [output] and not isinstance(output, Tensor):
        # An output class from a plugin: copied, with the rows selected in each attribute.
        found = copy(output)
        vars(found).update({name: select_rows(value, places, rows) for name, value in vars(output).items()})
        return found
    return tree_unflatten([_select(leaf, places, rows) for leaf in leaves], tree)


def select_batch_rows(batch: Batch, places: Sequence[int], rows: int) -> Batch:
    """Return some rows of a batch of `rows`."""
    return {
        name: [value[place] for place in places]
        if isinstance(value, list) and len(value) == rows
        else _select(value, places, rows)
        for name, value in batch.items()
    }


def _select(value: Any, places: Sequence[int], rows: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == rows:
        return value.index_select(0, torch.tensor(places, device=value.device))
    return value
