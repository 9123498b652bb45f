"""Stages: runs before the run itself, each of which makes the base of the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from regraft.contracts import Method
from regraft.errors import RegraftError
from regraft.plugins import Frozen
from regraft.spec.document import absolute_base
from regraft.spec.sections import AnyLoss, AnyMethod, AnyTask, DataSpec, TrainingSpec, omit_usual

SAME = (
    "optimizer",
    "batch_size",
    "accumulation",
    "weight_decay",
    "schedule",
    "clip",
    "dropout",
    "bucketing",
    "keep",
    "seed",
)
"""Training keys that a stage takes from the run where it does not write them; how long and how fast is its own."""


class StageSpec(Frozen):
    """A run before the run itself: its model, registered as NAME-stage-1, -2, ..., is the base of what follows."""

    base: str | None = None
    """The base of the first stage; null takes the run's. A later stage begins with the model of the one before it."""
    task: AnyTask
    """What the data mean, such as masked-lm; see `regraft show tasks`."""
    method: AnyMethod = Field(default_factory=lambda: default_method())
    """Which weights are trained. Left out, it is the run's where that moves the base, else full."""
    losses: tuple[AnyLoss, ...] = ()
    """Extra loss terms; see `regraft show losses`."""
    data: DataSpec
    """Files and columns of the rows; see `regraft show data`."""
    training: TrainingSpec = TrainingSpec()
    """Optimisation. Keys that are left out are the run's, except for those that say how long and how fast it trains."""

    @model_serializer(mode="wrap")
    def _omit_absent_base(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return omit_usual(handler(self), base=None)

    def absolute(self) -> Self:
        """Return the same stage with absolute local paths."""
        base = None if self.base is None else absolute_base(self.base)
        return self.model_copy(update={"data": self.data.absolute(), "base": base})


def default_method() -> Method:
    """Return the method of a stage whose run does not move the base."""
    return next(member for name in Method.names() if (member := Method.lookup(name)).usual)()


def stage_name(name: str, number: int) -> str:
    """Return the name of a stage's model; stages count from 1."""
    return f"{name}-stage-{number}"


def with_defaults(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a spec's document with what its stages take from the run; a document of another form stays as it is."""
    stages = document.get("stages")
    if not isinstance(stages, list | tuple) or not all(isinstance(stage, Mapping) for stage in stages):
        return document
    return {**document, "stages": [_completed(stage, number, document) for number, stage in enumerate(stages)]}


def _completed(stage: Mapping[str, Any], number: int, run: Mapping[str, Any]) -> dict[str, Any]:
    found = {"method": _method_of(run.get("method")), **stage}
    if number == 0 and found.get("base") is None:
        found["base"] = run.get("base")
    training, same = found.get("training", {}), run.get("training")
    if isinstance(training, Mapping) and isinstance(same, Mapping):
        found["training"] = {**{key: same[key] for key in SAME if key in same}, **training}
    return found


def _method_of(written: Any) -> Any:
    """Return the run's method where it moves the base, else the one that moves all of it."""
    try:
        method = Method.parse(written)
    except (ValueError, TypeError, ValidationError, RegraftError):
        return default_method()  # the run's own key reports it
    return written if isinstance(method, Method) and _suits_a_stage(method) else default_method()


def _suits_a_stage(method: Method) -> bool:
    """Return whether a stage may take a run's method: one that needs labels or a new head may not fit its task."""
    return moves_the_base(method) and not method.trains_features and not method.has_phases()


def moves_the_base(method: Method) -> bool:
    """Return whether a model of this method is another base than the one it was trained on."""
    return method.serves != "head" and not method.closed_form
