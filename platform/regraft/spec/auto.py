"""The policy of `auto`: which values the training keys take that a spec leaves open.

The method states its own defaults; each rule after it may change them. Written values always win. The values are
chosen once, when the number of rows is known, and stored with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from regraft.contracts import TrainingDefaults, TrainingFacts, medium_of
from regraft.spec.run import NAMED_AS, RunSpec

KEYS = ("lr", "head_factor", "epochs", "warmup")
"""The training keys that may be `auto`."""
Rule = Callable[[RunSpec, TrainingFacts, TrainingDefaults], TrainingDefaults]


@dataclass(frozen=True, slots=True)
class AutoValues:
    """The values that were chosen for the keys that a spec leaves open, and why."""

    values: dict[str, float]
    why: str
    stepped: bool = False
    """Whether the number of steps is written, so that epochs have no effect."""

    @property
    def text(self) -> str:
        """The choice as a sentence; empty where rate and length are written: what is left is no news."""
        used = {key: value for key, value in self.values.items() if key != "epochs" or not self.stepped}
        if not used.keys() & {"lr", "epochs"}:
            return ""
        named = ", ".join(f"training.{key} {value:g}" for key, value in used.items())
        return f"auto: {named} ({self.why}); a written value wins"


def _of_method(spec: RunSpec, facts: TrainingFacts, so_far: TrainingDefaults) -> TrainingDefaults:
    """Take the method's own defaults."""
    return spec.method.defaults(facts)


def _same_rate_beside_a_written_one(spec: RunSpec, facts: TrainingFacts, so_far: TrainingDefaults) -> TrainingDefaults:
    """Give the head the written rate: its factor belongs to the method's own rate."""
    return so_far if spec.training.lr == "auto" else replace(so_far, head_factor=1.0)


RULES: tuple[Rule, ...] = (_of_method, _same_rate_beside_a_written_one)
"""In order; the last one has the last word."""


def choose(spec: RunSpec, rows: int) -> AutoValues:
    """Return the values for the keys that the spec leaves open, for that number of training rows."""
    left_open = open_keys(spec)
    if not left_open:
        return AutoValues({}, "")
    facts = TrainingFacts(rows, spec.training.batch_size, medium_of(spec.task.modality).tokens)
    found = TrainingDefaults()
    for rule in RULES:
        found = rule(spec, facts, found)
    why = f"method {spec.method.key()}, {'tokens' if facts.tokens else 'pictures'}, {rows:,} training rows"
    values = asdict(found)
    return AutoValues({key: values[key] for key in left_open}, why, stepped=spec.training.steps is not None)


def resolve_auto(spec: RunSpec, rows: int) -> RunSpec:
    """Return the spec with a number for each key, as it is trained and stored."""
    return with_training(spec, choose(spec, rows).values)


def as_begun(spec: RunSpec, choice: Mapping[str, Any] | None) -> RunSpec:
    """Return the spec with the values that were chosen for its run; those of editions before `auto` without a choice.

    A key that the choice lacks stays open.
    """
    if choice is None:
        return as_before(spec)
    return with_training(spec, {key: choice[key] for key in open_keys(spec) if key in choice})


def as_before(spec: RunSpec) -> RunSpec:
    """Return the spec as editions without `auto` read it."""
    return with_training(spec, {key: NAMED_AS[key] for key in open_keys(spec)})


def same_choice(spec: RunSpec, choice: Mapping[str, Any] | None) -> bool:
    """Return whether a run or search with this spec's name has its values; `choice` holds those chosen for it by key.

    A key that is left open and one that is written with the number that it counts as give the same name. Without a
    choice, an edition before `auto` began it, and both meant the same.
    """
    if choice is None:
        return True
    written = {key: getattr(spec.training, key) for key in KEYS if getattr(spec.training, key) != "auto"}
    return all(key in choice for key in open_keys(spec)) and all(
        choice.get(key, value) == value for key, value in written.items()
    )


def open_keys(spec: RunSpec) -> list[str]:
    """Return the training keys that the spec leaves open."""
    return [key for key in KEYS if getattr(spec.training, key) == "auto"]


def with_training(spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
    """Return the spec with checked values of training keys."""
    if not values:
        return spec
    training = type(spec.training).model_validate({**spec.training.model_dump(), **values})
    return spec.model_copy(update={"training": training})
