"""One batch of rows for many models: what they share is computed once, and each model's own part behind it."""

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
from regraft.serving.engine.multi_lora import Factors, low_rank, per_row_heads
from regraft.serving.predictor import on_device
from regraft.trunk.boundary import Boundary
from regraft.trunk.cut import Cut, capture
from regraft.trunk.shapes import sizes_of


@dataclass(frozen=True, eq=False)
class Suffix:
    """Where models leave what their base computes for all of them, and what is left then."""

    frame: Frame
    """Computes what is left."""
    cut: Cut
    prefix_frame: Frame
    """Computes what is before; its base is the frame's own, and its task may be another one."""
    parts: Mapping[str, Boundary]
    """What of the carrier's is each kept value, by the key of the frame's own."""
    layers: Mapping[str, str] | None
    """The layers of the head, where each row can have its own (`linear_heads`); None: one pass for each model."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """What a model has for itself: how its rows are computed."""

    frame: Frame
    delta: Delta
    context: Context
    suffix: Suffix | None = None
    """None: its rows are computed by a pass of their own."""
    suffix_delta: Delta = field(default_factory=dict)
    """What the tail's frame wears for it."""
    factors: Factors | None = None
    """Low-rank factors beside the carrier's layers."""

    @property
    def task(self) -> Task:
        """Encodes rows and reads outputs."""
        return self.frame.adapted.task


@dataclass(frozen=True, eq=False)
class RoutedExample:
    """An encoded row and whose answer it wants."""

    loaded: LoadedModel
    example: Example
    key: Any
    """Equal for rows that give the model the same inputs."""


@dataclass(frozen=True)
class PassOutput:
    """The output of some of the rows, all of one model, and the batch that it is the output of."""

    places: list[int]
    loaded: LoadedModel
    output: Any
    batch: Batch


def whole(rows: Sequence[RoutedExample]) -> PassOutput:
    """Rows of one model, by a pass of its own."""
    loaded = rows[0].loaded
    loaded.frame.load_delta(loaded.delta)
    batch = batch_of(loaded.frame, [row.example for row in rows])
    output = loaded.task.predict_forward(
        loaded.frame.adapted.forward, loaded.frame.adapted.model, batch, loaded.context
    )
    return PassOutput(list(range(len(rows))), loaded, output, batch)


def shared(rows: Sequence[RoutedExample]) -> Iterator[PassOutput]:
    """Rows of any models whose tails have one carrier; images among them are of one size.

    The carrier computes each input once for all models without factors, and once for each with factors of its own.
    """
    suffixes = [suffix for row in rows if (suffix := row.loaded.suffix) is not None]
    prefix_frame = suffixes[0].prefix_frame
    several: dict[Any, int] = {}
    first: list[RoutedExample] = []
    places = []
    for row in rows:
        place = several.setdefault((id(row.loaded.factors) if row.loaded.factors else 0, row.key), len(first))
        if place == len(first):
            first.append(row)
        places.append(place)
    parts = {part.key: part for suffix in suffixes for part in suffix.parts.values()}
    factors = [row.loaded.factors for row in first]
    with low_rank(prefix_frame.adapted, factors) if any(factors) else nullcontext():
        boundary = capture(prefix_frame.adapted, carried(prefix_frame, first), parts.values())
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, (row, suffix) in enumerate(zip(rows, suffixes, strict=True)):
        groups[id(suffix), None if suffix.layers is not None else id(row.loaded)].append(number)
    for group in groups.values():
        yield from _behind(suffixes[group[0]], rows, group, boundary, places, len(first))


def _behind(
    suffix: Suffix,
    rows: Sequence[RoutedExample],
    group: list[int],
    boundary: Mapping[str, Tensor],
    places: Sequence[int],
    computed: int,
) -> Iterator[PassOutput]:
    batch = batch_of(suffix.frame, [rows[number].example for number in group])
    sizes = sizes_of(batch)
    kept = {key: boundary[part.key] for key, part in suffix.parts.items()}
    kept = suffix.cut.take(kept, [places[number] for number in group], computed, sizes)
    models: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(group):
        models[id(rows[number].loaded)].append(place)
    with (
        suffix.cut.bypassed(suffix.frame.adapted.model, kept, sizes),
        _heads(suffix, [rows[n].loaded for n in group], models),
    ):
        output = suffix.frame.adapted.forward(batch)
    for inside in models.values():
        alone = len(models) == 1
        yield PassOutput(
            [group[place] for place in inside],
            rows[group[inside[0]]].loaded,
            output if alone else picked(output, inside, len(group)),
            batch if alone else picked_batch(batch, inside, len(group)),
        )


def _heads(
    suffix: Suffix, loaded_models: Sequence[LoadedModel], models: Mapping[int, Any]
) -> AbstractContextManager[None]:
    if len(models) == 1:
        suffix.frame.load_delta(loaded_models[0].suffix_delta)
        return nullcontext()
    assert suffix.layers is not None
    return per_row_heads(suffix.frame.adapted, suffix.layers, [loaded.suffix_delta for loaded in loaded_models])


def batch_of(frame: Frame, examples: Sequence[Example]) -> Batch:
    """Examples of the frame's task as a batch where the frame is."""
    adapted = frame.adapted
    return prepared(adapted.task.collate([dict(example) for example in examples], adapted.context), frame.weights)


def carried(prefix_frame: Frame, rows: Sequence[RoutedExample]) -> Batch:
    """Examples of any tasks as a batch of the carrier's: of another task's only the inputs."""
    task = type(prefix_frame.adapted.task)
    return batch_of(
        prefix_frame,
        [
            row.example if type(row.loaded.task) is task else {n: v for n, v in row.example.items() if n != "labels"}
            for row in rows
        ],
    )


def prepared(batch: Batch, weights: BaseWeights) -> Batch:
    """A batch on the device; images in the precision."""
    moved = on_device(batch, weights.device)
    return {
        name: value.to(weights.dtype)
        if name != "labels" and isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in moved.items()
    }


def picked(output: Any, places: Sequence[int], rows: int) -> Any:
    """The output of some rows of a batch of `rows`."""
    leaves, tree = tree_flatten(output)
    if leaves == [output] and not isinstance(output, Tensor):
        # A class of the user's own: the same by its attributes.
        found = copy(output)
        vars(found).update({name: picked(value, places, rows) for name, value in vars(output).items()})
        return found
    return tree_unflatten([_some(leaf, places, rows) for leaf in leaves], tree)


def picked_batch(batch: Batch, places: Sequence[int], rows: int) -> Batch:
    """Some rows of a batch of `rows`."""
    return {
        name: [value[place] for place in places]
        if isinstance(value, list) and len(value) == rows
        else _some(value, places, rows)
        for name, value in batch.items()
    }


def _some(value: Any, places: Sequence[int], rows: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == rows:
        return value.index_select(0, torch.tensor(places, device=value.device))
    return value
