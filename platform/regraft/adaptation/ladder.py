"""The ladder of an adaptation: which candidates are tried beside the source-only model, from cheap to dear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regraft.adaptation.members import corrections
from regraft.adaptation.runs import adapts, refuse_loss
from regraft.contracts import Loss
from regraft.errors import RequestError
from regraft.plugins import unknown
from regraft.spec.run import RunSpec

SOURCE_ONLY = "source-only"
LABELLED = "target-labels"
"""The candidate that is trained on labelled target rows too."""


@dataclass(frozen=True, slots=True)
class LossRung:
    """A training run with one more loss."""

    name: str
    loss: Loss
    asked: bool
    """Whether the spec or the command names it."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The candidates that are tried, from cheap to dear."""

    corrections: tuple[str, ...]
    losses: tuple[LossRung, ...]
    labelled: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The candidates' names in their order."""
        return (*self.corrections, *(rung.name for rung in self.losses), *([LABELLED] if self.labelled else ()))


def ladder_of(spec: RunSpec, written: Sequence[str] | None) -> Ladder:
    """Return the ladder of a spec; `written` names its candidates, None: all corrections and the cheap losses.

    A loss that the spec names replaces the usual ones, with the spec's own settings. Raises RequestError for unknown
    names, and for a loss that was asked for and cannot be trained.
    """
    known = corrections()
    own = {rung.name: rung for rung in map(_own_rung, filter(adapts, spec.losses))}
    if written is None:
        losses = tuple(own.values()) or tuple(_usual())
        return Ladder(
            tuple(sorted(known, key=lambda name: not known[name].for_label_shift)),
            _trainable(spec, losses),
            spec.data.target_labels is not None,
        )
    every = own | {rung.name: rung for rung in _usual(with_features=True) if rung.name not in own}
    for name in written:
        if name not in (*known, *every, LABELLED):
            raise RequestError(unknown("candidate", name, [*known, *every, LABELLED]), where="--ladder")
    if LABELLED in written and spec.data.target_labels is None:
        raise RequestError(
            f"{LABELLED} is trained on labelled rows of the target: name their file in data.target_labels",
            where="--ladder",
        )
    losses = tuple(LossRung(rung.name, rung.loss, asked=True) for name, rung in every.items() if name in written)
    return Ladder(tuple(name for name in known if name in written), _trainable(spec, losses), LABELLED in written)


def loss_name(loss: Loss) -> str:
    """Return a loss's name as a candidate: its key, unless a correction has the same."""
    return f"{loss.key()}-loss" if loss.key() in corrections() else loss.key()


def _own_rung(loss: Loss) -> LossRung:
    return LossRung(loss_name(loss), loss, asked=True)


def _usual(*, with_features: bool = False) -> list[LossRung]:
    """Return the losses that adapt, with their defaults; by default those that need no discriminator or alignment."""
    members = (Loss.lookup(name) for name in Loss.names())
    usable = [member() for member in members if adapts(member) and not _needs_settings(member)]
    losses = [loss for loss in usable if with_features or "features" not in loss.needs]
    return [LossRung(loss_name(loss), loss, asked=False) for loss in losses]


def _needs_settings(member: type[Loss]) -> bool:
    """Return whether a loss has fields without a default, which only a spec can give."""
    return any(field.is_required() for field in member.model_fields.values())


def _trainable(spec: RunSpec, rungs: Sequence[LossRung]) -> tuple[LossRung, ...]:
    """Return the rungs that can be trained. Raises RequestError for one that cannot and was asked for."""
    found = []
    for rung in rungs:
        problem = refuse_loss(spec, rung.loss)
        if problem and rung.asked:
            raise RequestError(f"{rung.name} {problem}", where="--ladder")
        if not problem:
            found.append(rung)
    return tuple(found)
