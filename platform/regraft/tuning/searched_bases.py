"""The bases of a search: each found, and checked against the task, the rows' tokenizer, and the space.

A base is refused where it cannot do the task, or where no point of the space fits it; all such bases at once. A point
whose depth a base lacks is left out, since another base has it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regraft.bases.derived_base import find_base
from regraft.bases.load import load_processor
from regraft.bases.locate import Base
from regraft.bases.meta_model import meta_model
from regraft.contracts import Anatomy, Method
from regraft.errors import RegraftError, RequestError, SpecError, Unsupported
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import BASE, bases_of, short_bases
from regraft.store.objects import ObjectStore
from regraft.training.prepare import base_reference
from regraft.tuning.model_checks import SOME_LABELS, check_methods, depths_of, described, sizes_matter
from regraft.tuning.model_checks import size_problems as problems_of_sizes
from regraft.tuning.space import methods, without_search

log = logging.getLogger(__name__)

Depths = tuple[int | str, ...]
_OF_ANOTHER_FAMILY = "configuration class"
"""In transformers' message about a model class that a base's family does not have."""
SHOWN = 4
"""Methods that a note lists."""


@dataclass(frozen=True, slots=True)
class SearchedBases:
    """The bases of a search by their references, and what of the space each of them has."""

    bases: Mapping[str, Base]
    depths: Mapping[str, Depths]
    """What trials of each may freeze: numbers of blocks, and methods that train only a head."""
    anatomies: Mapping[str, Anatomy]
    """Of several bases those that can be built without their weights; others are left to the workers."""

    @property
    def first(self) -> str:
        """The base that stands for all where one is to be named."""
        return next(iter(self.bases))

    def of(self, overrides: Mapping[str, Any]) -> Base:
        """Return the base of a trial's point. Raises RequestError for one that is not among the search's."""
        reference = str(overrides.get(BASE, self.first))
        if reference not in self.bases:
            raise RequestError(f"{reference} is recorded for a trial and is no base of this search", where=BASE)
        return self.bases[reference]

    def admits(self, spec: RunSpec, overrides: Mapping[str, Any]) -> bool:
        """Return whether the point's base has what its method freezes. Other problems are the trial's own to report."""
        anatomy = self.anatomies.get(str(overrides.get(BASE, "")))
        if anatomy is None:
            return True
        try:
            return fits(without_search(spec).override(overrides).method, anatomy)
        except RequestError:
            return True


def fits(method: Method, anatomy: Anatomy) -> bool:
    """Return whether a base with this anatomy has what the method freezes."""
    try:
        method.depth_of(anatomy)
    except Unsupported:
        return False
    return True


def searched_bases(store: ObjectStore, spec: RunSpec) -> SearchedBases:
    """Find and check every base of a search. Of several, raises SpecError with all that are unsuitable."""
    found, problems = find_bases(store, spec)
    return check_bases(spec, found, problems)


def find_bases(store: ObjectStore, spec: RunSpec) -> tuple[dict[str, Base], list[str]]:
    """Find every base of a search. Return also, of several, what is wrong with those not found or not safe."""
    several = bases_of(spec.search)
    if not several:
        return {spec.base: find_base(store, base_reference(spec))}, []
    found: dict[str, Base] = {}
    problems: list[str] = []
    for reference in several:
        try:
            found[reference] = find_base(store, base_reference(spec.model_copy(update={"base": reference})))
        except RequestError as error:
            problems.append(_about(reference, str(error)))
    return found, problems


def check_bases(spec: RunSpec, bases: Mapping[str, Base], absent: Sequence[str] = ()) -> SearchedBases:
    """Return what of the space each base has. Raises SpecError with everything that does not fit, of all bases.

    `absent` is what is wrong with bases that are not among these.
    """
    if not bases_of(spec.search):
        return SearchedBases(bases, {spec.base: check_methods(spec, bases[spec.base])}, {})
    problems = [*absent, *_tokenizer_problems(spec, bases)]
    every = methods(spec)
    depths: dict[str, Depths] = {}
    anatomies: dict[str, Anatomy] = {}
    for reference, base in bases.items():
        one = spec.model_copy(update={"base": reference})
        try:
            anatomy = _anatomy(one, base)
        except RegraftError as error:
            problems.append(_about(reference, str(error)))
            continue
        if anatomy is None:
            depths[reference] = ()
            continue
        fitting, anatomies[reference] = [method for method in every if fits(method, anatomy)], anatomy
        depths[reference] = depths_of(fitting, anatomy)
        if not fitting:
            problems.append(_about(reference, _why_none(every, anatomy)))
        elif sizes_matter(spec):
            labels = spec.task.classes() or spec.data.labels or SOME_LABELS
            problems += [_about(reference, text) for text in problems_of_sizes(spec, fitting, base, labels)]
    if not absent and len(anatomies) == len(bases):
        problems += _problems_of_methods(every, list(anatomies.values()))
    if problems:
        raise SpecError(tuple(dict.fromkeys(problems)))
    return SearchedBases(bases, depths, anatomies)


def left_out_notes(spec: RunSpec, found: SearchedBases) -> Iterator[str]:
    """Yield a sentence for each base that lacks a depth of the space, and for bases that are the same."""
    names, every = short_bases(list(found.bases)), methods(spec)
    for reference, anatomy in found.anatomies.items():
        lacking = [described(method) for method in every if not fits(method, anatomy)]
        if lacking:
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            yield (
                f"method {', '.join(lacking[:SHOWN])}{more} is not tried with {names[reference]}, which has "
                f"{len(anatomy.blocks)} blocks; a share such as 50% fits every base"
            )
    same: dict[str, list[str]] = {}
    for reference, base in found.bases.items():
        same.setdefault(base.hash, []).append(names[reference])
    yield from (f"{' and '.join(group)} are the same base" for group in same.values() if len(group) > 1)


def _anatomy(spec: RunSpec, base: Base) -> Anatomy | None:
    """Return the anatomy of the task's model on a base; None if it cannot be built without its weights.

    Raises RegraftError where the base cannot do the task.
    """
    load_processor(base, spec.task.modality)
    labels = spec.task.classes() or spec.data.labels or SOME_LABELS
    try:
        return meta_model(spec.task, base, labels)[1]
    except RegraftError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and _OF_ANOTHER_FAMILY in str(error):
            what = f"task {spec.task.key()} cannot be done: {' '.join(str(error).split())[:200]}"
            raise Unsupported(what, where=BASE) from error
        log.info("%s cannot be built without weights: %s", base.reference, error)
        return None


def _tokenizer_problems(spec: RunSpec, bases: Mapping[str, Base]) -> Iterator[str]:
    """Yield why bases with other tokenizers cannot be compared, where rows or the score are made of tokens."""
    task = spec.task
    if not bases or not (task.packs or task.score.of_tokens):
        return
    first, *others = bases.items()
    different = [reference for reference, base in others if base.processor_hash != first[1].processor_hash]
    why = "packs rows by tokens" if task.packs else f"is decided by {task.score.name}, which counts tokens"
    for reference in different:
        yield _about(
            reference,
            f"its tokenizer is not that of {first[0]}, and task {task.key()} {why}: search bases of each tokenizer "
            "separately",
        )


def _why_none(every: Sequence[Method], anatomy: Anatomy) -> str:
    """Return why no method of the space fits a base."""
    try:
        every[0].depth_of(anatomy)
    except Unsupported as error:
        return f"nothing of search.space fits: {error}"
    return "nothing of search.space fits"


def _problems_of_methods(every: Sequence[Method], anatomies: Sequence[Anatomy]) -> Iterator[str]:
    """Yield the methods that fit none of the bases."""
    for method in every:
        if anatomies and not any(fits(method, anatomy) for anatomy in anatomies):
            most = max(len(anatomy.blocks) for anatomy in anatomies)
            yield f"search.space: method {described(method)} fits no base: the largest has {most} blocks"


def _about(reference: str, problem: str) -> str:
    return f"search.space.{BASE}: {reference}: {problem.removeprefix('base: ').removeprefix(f'{reference}: ')}"
