"""TODO"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from regraft.errors import RequestError, SpecError, UnknownPlugin
from regraft.spec.run import RunSpec
from regraft.spec.search import Draw
from regraft.tuning.space import FIXED, VARIES, as_mapping, probes, takes, without_search


def check_search(spec: RunSpec) -> None:
    """RequestError with what can be known to be wrong by the spec alone."""
    spec.searched()
    if spec.compute.workers not in (0, 1):
        raise RequestError(
            f"compute.workers: {spec.compute.workers} is written; a trial of a search trains in one worker: write 1 "
            "(search.concurrency says how many at a time) or 0 (all in this process)",
            where="search",
        )
    check_space(spec)


def check_space(spec: RunSpec) -> None:
    """SpecError with everything that is wrong with the space, each value tried as an override of the spec."""
    search = spec.searched()
    bare = without_search(spec)
    problems: list[str] = []
    for name, draw in search.space.items():
        if why := refused(name):
            problems.append(f"search.space.{name}: cannot vary within a search: {why}")
            continue
        for value in probes(draw):
            problems += [f"search.space.{name}: {problem}" for problem in wrong(bare, search.space, name, value)]
    problems += forced(spec)
    if problems:
        raise SpecError(tuple(dict.fromkeys(problems)))


def refused(name: str) -> str | None:
    """Why a field cannot vary; None where it can."""
    if name in VARIES:
        return None
    return next((why for fixed, why in FIXED.items() if name == fixed or name.startswith(f"{fixed}.")), None)


def wrong(bare: RunSpec, space: Mapping[str, Draw], name: str, value: Any) -> tuple[str, ...]:
    """What is wrong with one value of one field, beside each method that it may meet."""
    root, _, inner = name.partition(".")
    if root != "method" or not inner:
        return problems_of(bare, {name: value})
    if "method" not in space:
        return (
            problems_of(bare, {name: value}) if takes({"type": bare.method.key()}, inner) else (no_taker(bare, name),)
        )
    try:
        takers = [written for written in probes(space["method"]) if takes(as_mapping(written), inner)]
    except (UnknownPlugin, KeyError):
        return ()  # told where the methods themselves are tried
    if not takers:
        known = ", ".join(dict.fromkeys(str(as_mapping(written)["type"]) for written in probes(space["method"])))
        return (f"no method of the space ({known}) leaves a field {inner!r} to it: remove it, or add such a method",)
    return tuple(problem for written in takers for problem in problems_of(bare, {"method": written, name: value}))


def no_taker(bare: RunSpec, name: str) -> str:
    """For a field of the method that the spec's one method has not."""
    fields = ", ".join(sorted(type(bare.method).model_fields)) or "no fields"
    return f"method {bare.method.key()} has no such field ({fields}): remove it, or let `method` vary too"


def problems_of(bare: RunSpec, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """What validation says of the spec with these overrides."""
    try:
        bare.override(overrides)
    except SpecError as error:
        return error.problems
    except RequestError as error:
        return (str(error),)
    return ()


def forced(spec: RunSpec) -> Iterator[str]:
    """What contradicts a cache that is forced on: then every trial keeps what its frozen part gave."""
    space = spec.searched().space
    if not (kept := forced_places(spec)):
        return
    augments = probes(space["data.augment"]) if "data.augment" in space else (spec.data.augment,)
    if any(value != "off" for value in augments):
        yield (
            f"compute.trunk: {kept[0]} is written with data.augment, which changes the images below the cut in every "
            "epoch, so that nothing can be kept: write auto or off, or remove data.augment"
        )


def forced_places(spec: RunSpec) -> list[str]:
    """Where the spec forces the frozen part's outputs to be kept; empty where it is left open."""
    space = spec.searched().space
    written = probes(space["compute.trunk"]) if "compute.trunk" in space else (spec.compute.trunk,)
    return sorted({str(place) for place in written} & {"memory", "disk"})
