"""From the space of a spec to points of it: what a draw means for a trial, and whether the space makes sense at all."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from itertools import product
from typing import Any

from regraft.contracts import Method
from regraft.spec.run import RunSpec
from regraft.spec.search import Draw

FIXED = {
    "name": "all trials are of one model",
    "store": "all trials share one store",
    "plugins": "all trials share the plugin folders",
    "format": "it is no setting",
    "search": "a search does not vary itself",
    "base": "trials share one base: search each base by itself and compare the winners",
    "task": "trials share the rows as the task reads them: search each by itself and compare the winners",
    "data": "trials share the rows: search each by itself and compare the winners",
    "compute.workers": "a trial trains in one worker",
    "compute.cpus": "all workers of a search are alike",
    "compute.gpus": "all workers of a search are alike",
    "compute.accelerator": "all workers of a search are alike",
    "compute.memory_gb": "all workers of a search are alike",
}
"""What cannot vary within one search, and why. (`data.augment` can: it changes no row of the snapshot.)"""

VARIES = frozenset({"data.augment"})
_MOST_METHODS = 200


def overrides_at(spec: RunSpec, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of a trial for one value of each field.

    A field of the method applies only where the trial's method has it and does not write it itself: with
    `method: {choice: [feature-extraction, {type: freeze, depth: 4}, freeze]}` and `method.depth: {choice: [2, 6]}` the
    depth is drawn for the last alone. Parents come first, so that the overrides can be applied in order.
    """
    names = sorted(drawn, key=lambda name: name.count("."))
    return {name: drawn[name] for name in names if applies(spec, drawn, name)}


def applies(spec: RunSpec, drawn: Mapping[str, Any], name: str) -> bool:
    """Whether a drawn field has a meaning for the method that was drawn beside it."""
    root, _, inner = name.partition(".")
    if root != "method" or not inner:
        return True
    written = as_mapping(drawn["method"]) if "method" in drawn else {"type": spec.method.key()}
    return takes(written, inner)


def takes(written: Mapping[str, Any], inner: str) -> bool:
    """Whether a method as written leaves that field of its own to the space."""
    field = inner.split(".")[0]
    return field in Method.lookup(str(written["type"])).model_fields and field not in written


def as_mapping(written: Any) -> Mapping[str, Any]:
    """`lora` and `{type: lora}` alike."""
    return written if isinstance(written, Mapping) else {"type": written}


def identity(overrides: Mapping[str, Any]) -> str:
    """By which two points are found to be the same."""
    return json.dumps(overrides, sort_keys=True, default=str)


def drawn_at(space: Mapping[str, Draw], seed: int, turn: int) -> dict[str, Any]:
    """The `turn`-th random point, a pure function of its arguments; grids are gone through, turn by turn.

    As many turns as a choice has values bring each of them once, in a random order: among a dozen trials that were
    drawn without regard to one another, one of three methods is missing now and then.
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


def own_points(spec: RunSpec) -> list[dict[str, Any]]:
    """The spec's own values where the space has them, for each method of the space: what would be trained without a
    search, so that none ends behind it. None where grids are gone through, which leave nothing to choose."""
    search = spec.searched()
    space, written = search.space, spec.model_dump(mode="json")
    if any(draw.grid is not None for draw in space.values()):
        return []
    found = []
    methods = space["method"].choice if "method" in space else None
    for turn, method in enumerate(methods or (None,)):
        point = drawn_at(space, search.seed, turn) | ({} if method is None else {"method": method})
        for name, draw in space.items():
            own = _own(written, method, name)
            if name != "method" and own is not None and draw.has(own):
                point[name] = own
        found.append(point)
    return found


def _own(written: Mapping[str, Any], method: Any, name: str) -> Any:
    """What a spec says of a field, or the method that a point has in place of its own; None where it says nothing."""
    value: Any = written if method is None else {**written, "method": as_mapping(method)}
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def combination(values: Mapping[str, tuple[Any, ...]], turn: int) -> dict[str, Any]:
    """The `turn`-th combination, counted round and round; the last field changes fastest."""
    point: dict[str, Any] = {}
    for name in reversed(list(values)):
        turn, place = divmod(turn, len(values[name]))
        point[name] = values[name][place]
    return {name: point[name] for name in values}


def countable(draw: Draw) -> tuple[Any, ...]:
    """Every value of a draw that can be counted."""
    if draw.values is not None:
        return draw.values
    assert draw.randint is not None
    return tuple(range(draw.randint[0], draw.randint[1] + 1))


def probes(draw: Draw) -> tuple[Any, ...]:
    """The values by which a draw is checked: all that are written, or both ends."""
    return draw.values if draw.values is not None else (draw.bounds or ())


def without_search(spec: RunSpec) -> RunSpec:
    """The spec of a run: as if no search were written."""
    return spec.model_copy(update={"search": None})


def methods(spec: RunSpec) -> list[Method]:
    """Every method that the space may give a trial, as far as fields can be counted (both ends where they cannot)."""
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
    """Whether every trial trains nothing but a head: one worker then trains all of them together."""
    return all(method.serves == "head" and not method.closed_form for method in methods(spec))


def decides_plainly(spec: RunSpec) -> bool:
    """Whether sampler and scheduler are none of Ray Tune's."""
    return spec.search is not None and spec.search.sampler != "optuna" and spec.search.scheduler == "none"


def one_process_suffices(spec: RunSpec) -> bool:
    """Whether one process is all that a search can use: a Ray started for it on this machine would hold one worker."""
    compute, search = spec.compute, spec.search
    asked = (search and search.concurrency) or compute.accelerator or compute.memory_gb or compute.gpus != "auto"
    return compute.workers == 1 and not asked and heads_alone(spec)


def _tried(draw: Draw) -> tuple[Any, ...]:
    return countable(draw) if draw.values is not None or draw.randint is not None else probes(draw)
