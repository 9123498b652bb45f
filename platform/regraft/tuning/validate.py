"""Checks of a search that need only its spec. Without torch, so that `regraft.search` refuses a bad space at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from regraft.errors import RequestError, SpecError, UnknownPlugin
from regraft.spec.run import RunSpec
from regraft.spec.search import Draw
from regraft.spec.search_bases import BASE
from regraft.tuning.space import FIXED, VARIES, as_mapping, leaves_open, probe_values, without_search


def check_search(spec: RunSpec) -> None:
    """Check everything that the spec alone determines. Raises RequestError, or SpecError with every problem."""
    spec.searched()
    if spec.compute.workers not in (0, 1):
        raise RequestError(
            f"compute.workers: {spec.compute.workers} is written; a trial of a search trains in one worker: write 1 "
            "(search.concurrency says how many at a time) or 0 (all in this process)",
            where="search",
        )
    if spec.training.soup > 1 or "training.soup" in spec.searched().space:
        raise RequestError(
            "training.soup averages the checkpoints of one run, of which a trial keeps one: remove it, and train the "
            "winner with it",
            where="search",
        )
    check_space(spec)


def check_space(spec: RunSpec) -> None:
    """Try each value of the space as an override of the spec. Raises SpecError with every problem."""
    bare, space = without_search(spec), spec.searched().space
    problems: list[str] = []
    if bare.training.init == "random" and "training.seed" in space:
        problems.append("search.space.training.seed: cannot vary with training.init: random; trials share the weights")
    for name, draw in space.items():
        if why := why_fixed(name):
            problems.append(f"search.space.{name}: cannot vary within a search: {why}")
            continue
        for value in probe_values(draw):
            problems += [f"search.space.{name}: {problem}" for problem in value_problems(bare, space, name, value)]
    problems += [*trunk_problems(spec), *base_problems(spec)]
    if problems:
        raise SpecError(tuple(dict.fromkeys(problems)))


def why_fixed(name: str) -> str | None:
    """Return why a field cannot vary; None for one that can."""
    if name in VARIES:
        return None
    return next((why for fixed, why in FIXED.items() if name == fixed or name.startswith(f"{fixed}.")), None)


def value_problems(bare: RunSpec, space: Mapping[str, Draw], name: str, value: Any) -> tuple[str, ...]:
    """Return the problems of one value of one field, tried with each method that it may be drawn with."""
    root, _, inner = name.partition(".")
    if root != "method" or not inner:
        return override_problems(bare, {name: value})
    if "method" not in space:
        if leaves_open({"type": bare.method.key()}, inner):
            return override_problems(bare, {name: value})
        return (unknown_field(bare, name),)
    written = probe_values(space["method"])
    try:
        takers = [method for method in written if leaves_open(as_mapping(method), inner)]
    except (UnknownPlugin, KeyError):
        return ()  # reported for the field `method` itself
    if not takers:
        known = ", ".join(dict.fromkeys(str(as_mapping(method)["type"]) for method in written))
        return (f"no method of the space ({known}) leaves a field {inner!r} to it: remove it, or add such a method",)
    return tuple(problem for method in takers for problem in override_problems(bare, {"method": method, name: value}))


def base_problems(spec: RunSpec) -> Iterator[str]:
    """Yield what is wrong with a list of bases as a whole; each base is tried as an override too."""
    draw = spec.searched().space.get(BASE)
    if draw is None:
        return
    if draw.values is None:
        yield f"search.space.{BASE}: a range is written; allowed is a list of bases, as in [org/one, org/other]"
        return
    for base, count in Counter(map(str, draw.values)).items():
        if count > 1:
            yield f"search.space.{BASE}: {base} is written {count} times: remove all but one"
    if spec.stages:
        yield (
            f"search.space.{BASE}: cannot vary with stages: a run begins with the model of its last stage. Search "
            "without stages, or search each base separately"
        )


def unknown_field(bare: RunSpec, name: str) -> str:
    """Return the message for a field that the spec's only method does not have."""
    fields = ", ".join(sorted(type(bare.method).model_fields)) or "no fields"
    return f"method {bare.method.key()} has no such field ({fields}): remove it, or let `method` vary too"


def override_problems(bare: RunSpec, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the problems that validation finds in the spec with these overrides."""
    try:
        bare.override(overrides)
    except SpecError as error:
        return error.problems
    except RequestError as error:
        return (str(error),)
    return ()


def trunk_problems(spec: RunSpec) -> Iterator[str]:
    """Yield contradictions with a trunk cache that the spec forces on, which every trial then has to use."""
    if not (places := forced_places(spec)):
        return
    space = spec.searched().space
    if spec.task.random_inputs:
        yield (
            f"compute.trunk: {places[0]} is written with task {spec.task.key()}, whose inputs change in every "
            "epoch, so that nothing can be kept: write auto or off"
        )
    augments = probe_values(space["data.augment"]) if "data.augment" in space else (spec.data.augment,)
    if any(value != "off" for value in augments):
        yield (
            f"compute.trunk: {places[0]} is written with data.augment, which changes the images below the cut in every "
            "epoch, so that nothing can be kept: write auto or off, or remove data.augment"
        )


def forced_places(spec: RunSpec) -> list[str]:
    """Return where the spec forces the frozen part's outputs to be kept; empty if it leaves that open."""
    space = spec.searched().space
    written = probe_values(space["compute.trunk"]) if "compute.trunk" in space else (spec.compute.trunk,)
    return sorted({str(place) for place in written} & {"memory", "disk"})
