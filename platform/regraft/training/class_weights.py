"""The weight of each class in the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from regraft.contracts import Task
from regraft.data.rows import Rows
from regraft.errors import SpecError
from regraft.plugins import unknown


def class_weights(written: str | Mapping[str, float], labels: tuple[str, ...], rows: Rows, task: Task) -> Tensor | None:
    """Return (classes,) weights, or None if all are alike; the task defines what `balanced` means.

    Raises SpecError for a label that the rows do not have.
    """
    if written == "none":
        return None
    if isinstance(written, str):
        return torch.tensor(task.balance(rows.counts, len(rows), labels))
    strange = [label for label in written if label not in labels]
    if strange:
        raise SpecError(tuple(f"training.class_weights: {unknown('label', s, list(labels))}" for s in strange))
    return torch.tensor([float(written.get(label, 1.0)) for label in labels])
