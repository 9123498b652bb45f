"""The number of steps of a run."""

from __future__ import annotations

from regraft.data.sampler import total_steps
from regraft.spec.sections import TrainingSpec, number_of


def steps_of(training: TrainingSpec, rows: int) -> int:
    """Return the steps of a complete run over that many rows."""
    return training.steps or total_steps(rows, training.batch_size, number_of(training.epochs))
