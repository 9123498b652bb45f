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
from regraft.serving.engine.base_weights import Delta, Frame, Weights
from regraft.serving.engine.multi_lora import Factors, low_rank, own_heads
from regraft.serving.predictor import on_device
from regraft.trunk.boundary import Part
from regraft.trunk.cut import Cut, capture
from regraft.trunk.shapes import sizes_of


@dataclass(frozen=True, eq=False)
class Tail:
    """Where models leave what their base computes for all of them, and what is left then."""

    frame: Frame
    """Computes what is left."""
    cut: Cut
    carrier: Frame
    """Computes what is before; its base is the frame's own, and its task may be another one."""
    parts: Mapping[str, Part]
    """What of the carrier's is each kept value, by the key of the frame's own."""
    layers: Mapping[str, str] | None
    """The layers of the head, where each row can have its own (`linear_heads`); None: one pass for each model."""


@dataclass(frozen=True, eq=False)
class Own:
    """What a model has for itself: how its rows are computed."""

    frame: Frame
    delta: Delta
    context: Context
    tail: Tail | None = None
    """None: its rows are computed by a pass of their own."""
    suffix: Delta = field(default_factory=dict)
    """What the tail's frame wears for it."""
    factors: Factors | None = None
    """Low-rank factors beside the carrier's layers."""

    @property
    def task(self) -> Task:
        """Encodes rows and reads outputs."""
        return self.frame.adapted.task


@dataclass(frozen=True, eq=False)
class Asked:
    """An encoded row and whose answer it wants."""

    own: Own
    example: Example
    key: Any
    """Equal for rows that give the model the same inputs."""


@dataclass(frozen=True)
class Computed:
    """The output of some of the rows, all of one model, and the batch that it is the output of."""

    places: list[int]
    own: Own
    output: Any
    batch: Batch


def whole(rows: Sequence[Asked]) -> Computed:
    """Rows of one model, by a pass of its own."""
    own = rows[0].own
    own.frame.wear(own.delta)
    batch = batch_of(own.frame, [row.example for row in rows])
    output = own.task.predict_forward(own.frame.adapted.forward, own.frame.adapted.model, batch, own.context)
    return Computed(list(range(len(rows))), own, output, batch)


def shared(rows: Sequence[Asked]) -> Iterator[Computed]:
    """Rows of any models whose tails have one carrier; images among them are of one size.

    The carrier computes each input once for all models without factors, and once for each with factors of its own.
    """
    tails = [tail for row in rows if (tail := row.own.tail) is not None]
    carrier = tails[0].carrier
    several: dict[Any, int] = {}
    first: list[Asked] = []
    places = []
    for row in rows:
        place = several.setdefault((id(row.own.factors) if row.own.factors else 0, row.key), len(first))
        if place == len(first):
            first.append(row)
        places.append(place)
    parts = {part.key: part for tail in tails for part in tail.parts.values()}
    factors = [row.own.factors for row in first]
    with low_rank(carrier.adapted, factors) if any(factors) else nullcontext():
        boundary = capture(carrier.adapted, carried(carrier, first), parts.values())
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, (row, tail) in enumerate(zip(rows, tails, strict=True)):
        groups[id(tail), None if tail.layers is not None else id(row.own)].append(number)
    for group in groups.values():
        yield from _behind(tails[group[0]], rows, group, boundary, places, len(first))


def _behind(
    tail: Tail,
    rows: Sequence[Asked],
    group: list[int],
    boundary: Mapping[str, Tensor],
    places: Sequence[int],
    computed: int,
) -> Iterator[Computed]:
    batch = batch_of(tail.frame, [rows[number].example for number in group])
    sizes = sizes_of(batch)
    kept = {key: boundary[part.key] for key, part in tail.parts.items()}
    kept = tail.cut.take(kept, [places[number] for number in group], computed, sizes)
    models: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(group):
        models[id(rows[number].own)].append(place)
    with (
        tail.cut.standing_in(tail.frame.adapted.model, kept, sizes),
        _heads(tail, [rows[n].own for n in group], models),
    ):
        output = tail.frame.adapted.forward(batch)
    for inside in models.values():
        alone = len(models) == 1
        yield Computed(
            [group[place] for place in inside],
            rows[group[inside[0]]].own,
            output if alone else picked(output, inside, len(group)),
            batch if alone else picked_batch(batch, inside, len(group)),
        )


def _heads(tail: Tail, owns: Sequence[Own], models: Mapping[int, Any]) -> AbstractContextManager[None]:
    if len(models) == 1:
        tail.frame.wear(owns[0].suffix)
        return nullcontext()
    assert tail.layers is not None
    return own_heads(tail.frame.adapted, tail.layers, [own.suffix for own in owns])


def batch_of(frame: Frame, examples: Sequence[Example]) -> Batch:
    """Examples of the frame's task as a batch where the frame is."""
    adapted = frame.adapted
    return prepared(adapted.task.collate([dict(example) for example in examples], adapted.context), frame.weights)


def carried(carrier: Frame, rows: Sequence[Asked]) -> Batch:
    """Examples of any tasks as a batch of the carrier's: of another task's only the inputs."""
    task = type(carrier.adapted.task)
    return batch_of(
        carrier,
        [
            row.example if type(row.own.task) is task else {n: v for n, v in row.example.items() if n != "labels"}
            for row in rows
        ],
    )


def prepared(batch: Batch, weights: Weights) -> Batch:
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
