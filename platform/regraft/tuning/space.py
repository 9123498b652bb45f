"""Points of a spec's search space: what may vary, what a draw means for a trial, and how points are generated."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from itertools import product
from typing import Any

from regraft.contracts import Method
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.spec.search import Draw
from regraft.spec.search_bases import BASE, bases_of

FIXED = {
    "name": "all trials are of one model",
    "store": "all trials share one store",
    "plugins": "all trials share the plugin folders",
    "format": "it is not a setting",
    "search": "a search does not vary itself",
    "task": "trials share the rows as the task reads them: search each separately and compare the winners",
    "training.init": "trials share the weights that they begin with: search each separately and compare the winners",
    "data": "trials share the rows: search each separately and compare the winners",
    "compute.workers": "a trial trains in one worker",
    "compute.cpus": "all workers of a search are alike",
    "compute.gpus": "all workers of a search are alike",
    "compute.accelerator": "all workers of a search are alike",
    "compute.memory_gb": "all workers of a search are alike",
}
"""Fields that cannot vary within one search, and why. (`data.augment` can: it changes no row of the snapshot.)"""

VARIES = frozenset({"data.augment"})
"""Exceptions to FIXED."""
_MOST_METHODS = 200


def overrides_at(spec: RunSpec, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides of a trial for one drawn value per field.

    A field of the method applies only if the trial's method has that field and does not set it itself. With
    `method: {choice: [feature-extraction, {type: freeze, depth: 4}, freeze]}` and `method.depth: {choice: [2, 6]}`, the
    drawn depth applies to the third method only. Parents come before their fields, so that the overrides can be
    applied in order.
    """
    names = sorted(drawn, key=lambda name: name.count("."))
    return {name: drawn[name] for name in names if applies(spec, drawn, name)}


def applies(spec: RunSpec, drawn: Mapping[str, Any], name: str) -> bool:
    """Return whether a drawn field applies to the method drawn with it."""
    root, _, inner = name.partition(".")
    if root != "method" or not inner:
        return True
    written = as_mapping(drawn["method"]) if "method" in drawn else {"type": spec.method.key()}
    return leaves_open(written, inner)


def leaves_open(written: Mapping[str, Any], inner: str) -> bool:
    """Return whether a method has the field `inner` and does not set it, so that the space may."""
    field = inner.split(".")[0]
    return field in Method.lookup(str(written["type"])).model_fields and field not in written


def as_mapping(written: Any) -> Mapping[str, Any]:
    """Return a plugin as a mapping, whether it is written as `lora` or `{type: lora}`."""
    return written if isinstance(written, Mapping) else {"type": written}


def identity(overrides: Mapping[str, Any]) -> str:
    """Return a key that is equal for equal points."""
    return json.dumps(overrides, sort_keys=True, default=str)


def random_point(space: Mapping[str, Draw], seed: int, turn: int) -> dict[str, Any]:
    """Return the `turn`-th random point, a pure function of its arguments. Grids are enumerated turn by turn.

    Every run of as many turns as a choice has values draws each value once, in random order. With independent draws, a
    dozen trials would now and then miss one of three methods.
    """
    grids = {name: draw.grid for name, draw in space.items() if draw.grid is not None}
    point = combination(grids, turn)
    for name, draw in space.items():
        if draw.choice is not None:
            round_, place = divmod(turn, len(draw.choice))
            order = random.Random(f"{seed}/{round_}/{name}").sample(range(len(draw.choice)), len(draw.choice))
            point[name] = draw.choice[order[place]]
        elif name not in grids:
            point[name] = draw.at(random.Random(f"{seed}/{turn}/{name}").random())
    return {name: point[name] for name in space}


def default_points(spec: RunSpec) -> list[dict[str, Any]]:
    """Return the points that training without a search would use, one for each method of the space.

    They hold the spec's own values where the space allows these, so that a search ends no worse than the spec itself.
    A space of several bases has such a point for each base too, so that the race among them begins at equal settings.
    A space with grids, which are enumerated completely, has none.
    """
    search = spec.searched()
    space = search.space
    if any(draw.grid is not None for draw in space.values()):
        return []
    found = []
    for turn, fixed in enumerate(_starts(spec)):
        written = _written_for(spec, fixed.get("method"))
        point = random_point(space, search.seed, turn) | fixed
        for name, draw in space.items():
            value = _value_in(written, name)
            if name not in fixed and value is not None and draw.has(value):
                point[name] = value
        found.append(point)
    return found


def _starts(spec: RunSpec) -> list[dict[str, Any]]:
    """Return the method and the base of each default point: every base with the first method, then other methods."""
    space = spec.searched().space
    methods = [{"method": method} for method in (space["method"].choice if "method" in space else None) or ()] or [{}]
    bases = bases_of(spec.searched())
    if not bases:
        return methods
    first = spec.base if spec.base in bases else bases[0]
    order = [first, *(base for base in bases if base != first)]
    return [*({**methods[0], BASE: base} for base in order), *({**method, BASE: first} for method in methods[1:])]


def _written_for(spec: RunSpec, method: Any) -> Mapping[str, Any]:
    """Return the document of the spec with the point's method, if any, and with the values of `auto` for it.

    Only the number of epochs depends on the rows, which are not known here: one batch of them stands for any number.
    """
    changed = without_search(spec)
    if method is not None:
        changed = changed.override({"method": as_mapping(method)})
    document = resolve_auto(changed, spec.training.batch_size).model_dump(mode="json")
    return document if method is None else {**document, "method": as_mapping(method)}


def _value_in(written: Mapping[str, Any], name: str) -> Any:
    """Return a field of a spec's document; None for an absent field."""
    value: Any = written
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def combination(values: Mapping[str, tuple[Any, ...]], turn: int) -> dict[str, Any]:
    """Return the `turn`-th combination, starting over after the last one; the last field changes fastest."""
    point: dict[str, Any] = {}
    for name in reversed(list(values)):
        turn, place = divmod(turn, len(values[name]))
        point[name] = values[name][place]
    return {name: point[name] for name in values}


def countable(draw: Draw) -> tuple[Any, ...]:
    """Return every value of a draw that can be enumerated."""
    if draw.values is not None:
        return draw.values
    assert draw.randint is not None
    return tuple(range(draw.randint[0], draw.randint[1] + 1))


def probe_values(draw: Draw) -> tuple[Any, ...]:
    """Return the values of a draw that are checked: all listed values, or both ends of a range."""
    return draw.values if draw.values is not None else (draw.bounds or ())


def without_search(spec: RunSpec) -> RunSpec:
    """Return the spec of a run, without the section `search`."""
    return spec.model_copy(update={"search": None})


def methods(spec: RunSpec) -> list[Method]:
    """Return every method that a trial may have; a range that cannot be enumerated counts with both ends."""
    space = {name: draw for name, draw in spec.searched().space.items() if name.split(".")[0] == "method"}
    bare = without_search(spec)
    found: dict[str, Method] = {}
    for number, values in enumerate(product(*map(_tried, space.values()))):
        if number >= _MOST_METHODS:
            break
        overrides = overrides_at(spec, dict(zip(space, values, strict=True)))
        if identity(overrides) not in found:
            found[identity(overrides)] = bare.override(overrides).method
    return list(found.values())


def heads_alone(spec: RunSpec) -> bool:
    """Return whether every trial trains only a head, so that one worker trains all of them together."""
    return all(method.serves == "head" and not method.closed_form for method in methods(spec))


def decides_without_tune(spec: RunSpec) -> bool:
    """Return whether neither the sampler nor the scheduler belongs to Ray Tune."""
    return spec.search is not None and spec.search.sampler != "optuna" and spec.search.scheduler == "none"


def one_process_suffices(spec: RunSpec) -> bool:
    """Return whether a search could use only one process, so that starting Ray on this machine gains nothing."""
    compute, search = spec.compute, spec.search
    asked = (search and search.concurrency) or compute.accelerator or compute.memory_gb or compute.gpus != "auto"
    return compute.workers == 1 and not asked and heads_alone(spec)


def _tried(draw: Draw) -> tuple[Any, ...]:
    return countable(draw) if draw.values is not None or draw.randint is not None else probe_values(draw)
