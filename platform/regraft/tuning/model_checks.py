"""Checks of a search against its base: depths, checkpoint sizes and forced caches, before any worker starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from regraft.bases.locate import Base
from regraft.bases.meta_model import TrainableWeights, meta_model, trainable_weights
from regraft.contracts import Anatomy, Method
from regraft.errors import BaseError, RegraftError, SpecError, Unsupported
from regraft.spec.run import RunSpec
from regraft.tuning.driver.checkpoint_budget import OVERHEAD
from regraft.tuning.space import methods, probe_values
from regraft.tuning.validate import forced_places

log = logging.getLogger(__name__)


SOME_LABELS = ("one", "another")
"""Placeholders for labels that only the rows give; their number hardly changes the size of a checkpoint."""


def check_methods(spec: RunSpec, base: Base) -> tuple[int | str, ...]:
    """Return what the space may freeze: depths in blocks, and the names of methods that train only a head.

    A base that cannot be built without its weights is left to the workers, which load it. Raises SpecError with
    everything that does not fit the base.
    """
    every = methods(spec)
    labels = spec.task.classes() or spec.data.labels or SOME_LABELS
    if not sizes_matter(spec) and all(_depth_is_fixed(method) for method in every):
        return ()
    try:
        _, anatomy = meta_model(spec.task, base, labels)
    except (RegraftError, NotImplementedError, RuntimeError, ValueError) as error:
        log.info("the base cannot be built without weights: %s", error)
        return ()
    problems = list(_depth_problems(every, anatomy))
    if not problems and sizes_matter(spec):
        problems = list(size_problems(spec, every, base, labels))
    if problems:
        raise SpecError(tuple(dict.fromkeys(problems)))
    return depths_of(every, anatomy)


def sizes_matter(spec: RunSpec) -> bool:
    """Return whether the spec limits checkpoints or forces outputs to be kept, which depends on a method's size."""
    return bool(spec.searched().quota_gb or forced_places(spec))


def _depth_is_fixed(method: Method) -> bool:
    """Return whether the method freezes everything, or nothing, on every base."""
    return method.serves == "head" or type(method).depth_of is Method.depth_of


def depths_of(every: Sequence[Method], anatomy: Anatomy) -> tuple[int | str, ...]:
    """Return what methods that fit a base freeze: depths in blocks, and names of methods that train only a head."""
    depths = {method.key() if method.serves == "head" else method.depth_of(anatomy) for method in every}
    return tuple(sorted(depths - {0}, key=str))


def _depth_problems(every: Sequence[Method], anatomy: Anatomy) -> Iterator[str]:
    for method in every:
        try:
            method.depth_of(anatomy)
        except Unsupported as error:
            yield f"search.space: {error}"


def size_problems(spec: RunSpec, every: Sequence[Method], base: Base, labels: tuple[str, ...]) -> Iterator[str]:
    """Yield what forced caches and the quota do not allow of these methods on a base."""
    places, quota = forced_places(spec), spec.searched().quota_gb
    for method in every:
        try:
            found = trainable_weights(spec.task, method, base, labels)
        except (RegraftError, NotImplementedError, RuntimeError, ValueError) as error:
            if isinstance(error, Unsupported | BaseError):
                yield f"search.space: {error}"
            continue
        if places and found.depth == 0 and not method.has_phases():
            yield (
                f"compute.trunk: {places[0]} is written, and method {described(method)} freezes nothing whose output "
                "could be kept: write auto, or leave that method out"
            )
        if places and found.head_only and (dropout := _largest_dropout(spec)):
            yield (
                f"compute.trunk: {places[0]} is written with training.dropout {dropout:g}, which lies below the cut of "
                f"method {described(method)}: what is kept has none; write auto, or remove training.dropout"
            )
        if quota and found.bytes + OVERHEAD > quota * 1e9:
            yield _too_small(method, found, quota)


def _too_small(method: Method, found: TrainableWeights, quota: float) -> str:
    size = (found.bytes + OVERHEAD) / 1e9
    return (
        f"search.quota_gb: {quota:g} is written; one checkpoint of method {described(method)} takes {size:.3g} GB "
        f"({found.trainable:,} parameters move): allow at least that, twice that so that a better one can replace it"
    )


def _largest_dropout(spec: RunSpec) -> float:
    space = spec.searched().space
    values = probe_values(space["training.dropout"]) if "training.dropout" in space else (spec.training.dropout,)
    return max((float(value) for value in values if value), default=0.0)


def described(method: Method) -> str:
    """Return a method with the fields that the space writes: `freeze (depth: 4)`."""
    document = method.model_dump(mode="json")
    fields = ", ".join(f"{name}: {document[name]}" for name in sorted(method.model_fields_set))
    return f"{method.key()} ({fields})" if fields else method.key()
