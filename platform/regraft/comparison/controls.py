"""The controls of a run as specs of runs of their own, with its rows and its budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from regraft.bases.derived_base import holds_configuration_alone
from regraft.contracts import Method, TrainingFacts, medium_of
from regraft.data.sampler import total_steps
from regraft.errors import RegraftError, Unsupported
from regraft.spec.auto import with_training
from regraft.spec.run import RunSpec
from regraft.spec.stages import default_method
from regraft.training.run import steps_of

RANDOM_WEIGHTS, FROZEN_PROBE, LAST_VERSION = "random_weights", "frozen_probe", "last_version"
FASTER = 3.0
"""Factor on the rate of full fine-tuning where all weights are new: small steps keep what is not there."""
_MOST_NAME = 64


@dataclass(frozen=True, slots=True)
class ControlRun:
    """A control that is a run."""

    name: str
    what: str
    """The control in a few words."""
    knows_base: bool
    """Whether it uses what the base has learned."""
    spec: RunSpec | None = None
    why: str = ""
    """Why there is no such run."""


def control_runs(spec: RunSpec, rows: int) -> tuple[ControlRun, ...]:
    """Return the controls of a run that have weights; `spec` holds numbers for all training keys.

    `rows` is the number of training rows. A control that a run cannot have says why.
    """
    found = []
    for control, make in (
        (ControlRun(RANDOM_WEIGHTS, "the same architecture from random weights", False), random_weights),
        (ControlRun(FROZEN_PROBE, "a head on the frozen base", True), frozen_probe),
    ):
        try:
            found.append(replace(control, spec=make(spec, rows)))
        except RegraftError as error:
            found.append(replace(control, why=error.message))
    return tuple(found)


def random_weights(spec: RunSpec, rows: int) -> RunSpec:
    """Return the run that begins with random weights: all of them move, for as many steps as the run takes.

    The steps of a run that trains the head alone cost little: its control takes no more than full fine-tuning takes by
    itself, and that of a head that is solved takes as many. Raises Unsupported where the run itself begins so.
    """
    if begins_random(spec):
        raise Unsupported("the model itself began with random weights")
    keeps = spec.method.moves_all and not spec.method.has_phases() and not spec.method.trains_features
    method = spec.method if keeps else default_method()
    facts = TrainingFacts(rows, spec.training.batch_size, medium_of(spec.task.modality).tokens)
    usual = method.defaults(facts)
    changes: dict[str, Any] = {
        "init": "random",
        "lr": usual.lr * FASTER,
        "head_factor": 1.0,
        "warmup": usual.warmup,
        **_length(spec, rows, usual.epochs),
    }
    return _control(spec, method, RANDOM_WEIGHTS, changes)


def frozen_probe(spec: RunSpec, rows: int) -> RunSpec:
    """Return the run that trains a head on the frozen base, at that method's own rate and length.

    Raises Unsupported where the run itself trains the head alone, and where the base is random.
    """
    if begins_random(spec):
        raise Unsupported("the base has random weights")
    if spec.method.serves == "head":
        raise Unsupported("the model is itself a head on the frozen base")
    changes = {"lr": "auto", "head_factor": "auto", "warmup": "auto", "epochs": "auto", "steps": None}
    return _control(spec, probe_method(), FROZEN_PROBE, changes)


def probe_method() -> Method:
    """Return the method that trains a head by steps and leaves the whole base as it is."""
    members = (Method.lookup(name) for name in Method.names())
    return next(one for one in members if one.serves == "head" and one.by_depth and not one.closed_form)()


def begins_random(spec: RunSpec) -> bool:
    """Return whether a run begins with random weights."""
    return spec.training.init == "random" or holds_configuration_alone(spec.base)


def _length(spec: RunSpec, rows: int, usual_epochs: int) -> dict[str, Any]:
    """Return how long a control trains that moves the whole base."""
    if spec.method.closed_form:
        return {"epochs": usual_epochs, "steps": None}
    steps = steps_of(spec.training, rows)
    if spec.method.serves == "head":
        steps = min(steps, total_steps(rows, spec.training.batch_size, usual_epochs))
    return {"steps": steps}


def _control(spec: RunSpec, method: Method, name: str, changes: dict[str, Any]) -> RunSpec:
    """Return a run on the same rows, without what belongs to the run that is compared."""
    share = isinstance(spec.data.test, float)  # its rows are in no other side
    data = spec.data.model_copy(update={"target": None, **({} if share else {"test": None})})
    plain = spec.model_copy(
        update={
            "name": control_model(spec.name, name),
            "method": method,
            "losses": (),
            "stages": (),
            "search": None,
            "data": data,
        }
    )
    rest: dict[str, Any] = {"baselines": False, "keep": 1, "soup": 1, "checkpoint_steps": None, "early_stopping": None}
    if changes.get("init") != "random":
        rest["init"] = "pretrained"
    return with_training(plain, {**rest, **changes})


def control_model(model: str, control: str) -> str:
    """Return the name under which a model's control has its runs; nothing is registered under it."""
    mark = f".{control.replace('_', '-')}"
    return f"{model[: _MOST_NAME - len(mark)]}{mark}"
