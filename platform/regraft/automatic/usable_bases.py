"""Which bases can do the task: each is found and its model is built without weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from regraft.automatic.base_candidates import NamedBase
from regraft.bases.derived_base import RANDOM, find_base, holds_configuration_alone
from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import Base
from regraft.bases.meta_model import meta_model
from regraft.contracts import Context, Task
from regraft.data.look.look import DataLook
from regraft.errors import RegraftError, RequestError
from regraft.spec.user_settings import settings_file
from regraft.store.objects import ObjectStore
from regraft.training.prepare import base_bytes

SOME_LABELS = ("one", "another")
"""Labels of models that are built without weights; their number changes nothing but the head."""

SMALL = 500_000_000
"""Bytes of weights up to which a base is built with them to see whether it can do the task."""


@dataclass(frozen=True)
class CheckedBase:
    """A base, and whether it can do the task."""

    named: NamedBase
    why: str = ""
    """Why it cannot; empty where it can."""
    base: Base | None = None
    task: Task | None = None
    """The form of the task that it can do."""
    parameters: int = 0
    random: bool = False
    """Whether it is a configuration alone, so that training begins with random weights."""

    @property
    def usable(self) -> bool:
        """Whether the base can do the task."""
        return self.base is not None


def verdicts(store: ObjectStore, look: DataLook, named: Iterable[NamedBase]) -> Iterator[CheckedBase]:
    """Yield the verdict on each base, in order."""
    for one in named:
        yield _verdict(store, look, one)


def _verdict(store: ObjectStore, look: DataLook, named: NamedBase) -> CheckedBase:
    """Return whether a base can do the task in one of the forms that the rows have."""
    random = holds_configuration_alone(named.reference)
    why = ""
    try:
        base = find_base(store, f"{RANDOM}0:{named.reference}" if random else named.reference)
    except RegraftError as error:
        return CheckedBase(named, _brief(error))
    for task in look.tasks:
        try:
            parameters = _built(task, base)
        except (RegraftError, NotImplementedError, RuntimeError, ValueError) as error:
            why = _brief(error)  # the last form asks least of a base
            continue
        return CheckedBase(named, "", base, task, parameters, random)
    return CheckedBase(named, why)


def _built(task: Task, base: Base) -> int:
    """Build the task's model on a base without weights, and return how many parameters it has.

    A small base is built with its weights too: what a model computes may say that it cannot do the task.
    """
    processor = load_processor(base, task.modality)
    labels = task.classes() or SOME_LABELS
    model, _ = meta_model(task, base, labels)
    task.configure(model, Context(processor, labels, getattr(model, "config", None)))
    if base_bytes(base) <= SMALL:
        task.build(BaseLoader(base), labels)
    return sum(parameter.numel() for parameter in model.parameters())


def _brief(error: Exception) -> str:
    text = " ".join((error.message if isinstance(error, RegraftError) else str(error)).split())
    return text[:240] + ("..." if len(text) > 240 else "")


def refuse_none(found: list[CheckedBase], look: DataLook) -> None:
    """Raise RequestError where no base can do the task, with what was looked at and what to do."""
    if any(one.usable for one in found):
        return
    task = look.task.key()
    do = f"name one with --bases, or list it under bases: in {settings_file()}"
    if not found:
        raise RequestError(
            f"no base is there for task {task}: nothing in the settings, in installed packages or in the hub's copies "
            f"on this machine; {do} (regraft show tasks {task} says which families do it)",
            where="--bases",
        )
    each = "; ".join(f"{one.named.reference} ({one.named.found}): {one.why}" for one in found[:8])
    more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
    raise RequestError(f"no base that is there can do task {task}: {each}{more}. To go on, {do}", where="--bases")
