"""What a new class does to the classes of before: recall before and after on kept rows, and the gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch

from regraft.contracts import Context, Task
from regraft.data.kept_features import KeptFeatures
from regraft.errors import RequestError
from regraft.teaching.imprint import HeadWeights
from regraft.units import counted

_ROUNDING = 1e-9
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ClassEffect:
    """Recall of one class before and after; None where no kept row has it, and before for the new class."""

    label: str
    rows: int
    before: float | None
    after: float | None

    @property
    def loss(self) -> float:
        """Points of recall that it loses; 0 where that is not known."""
        return 0.0 if self.before is None or self.after is None else 100 * (self.before - self.after)

    def document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)


def effects(before: HeadWeights, after: HeadWeights, kept: KeptFeatures, labels: Sequence[str]) -> list[ClassEffect]:
    """Return the effect on each class; `labels` are those of `after`, the new one last."""
    old, new = before.logits(kept.features).argmax(dim=1), after.logits(kept.features).argmax(dim=1)
    found = []
    for number, label in enumerate(labels):
        own = kept.classes == number
        rows = int(own.sum())
        earlier = None if not rows or number == len(before.bias) else float((old[own] == number).double().mean())
        later = float((new[own] == number).double().mean()) if rows else None
        found.append(ClassEffect(label, rows, earlier, later))
    return found


def refuse_loss(found: Sequence[ClassEffect], most: float, where: str) -> None:
    """Raise RequestError where a class loses more points of recall than `most`."""
    losing = sorted((one for one in found if one.loss > most + _ROUNDING), key=lambda one: -one.loss)
    if not losing:
        return
    shown = "; ".join(
        f"{one.label!r} {one.loss:.1f} points (recall {one.before:.3f} to {one.after:.3f}, {counted(one.rows, 'row')})"
        for one in losing[:_SHOWN]
    )
    more = f" and {len(losing) - _SHOWN} more classes" if len(losing) > _SHOWN else ""
    way_out = math.ceil(losing[0].loss - _ROUNDING)
    raise RequestError(
        f"nothing is published: with the new class, classes that the model has would lose more than --max-loss "
        f"{most:g}: {shown}{more}. Pass --max-loss {way_out} if that may be, or more rows to measure on "
        "(--eval), or clearer examples; where classes really overlap, train with rows of the new one",
        where=where,
    )


def metrics_after(task: Task, context: Context, head: HeadWeights, kept: KeptFeatures) -> dict[str, float]:
    """Return the task's metrics of a head on kept rows; `context` has the head's labels."""
    output = SimpleNamespace(logits=head.logits(kept.features).float())
    with torch.no_grad():
        records = task.records(output, {"labels": kept.classes}, context)
    return {name: float(value) for name, value in task.metrics(records, context).items()}
