"""Steps with too few rows for a task whose loss compares rows with one another."""

from __future__ import annotations

from regraft.contracts import Task
from regraft.units import counted


def problem_of_batch(task: Task, batch_size: int) -> str:
    """Return why steps of this size teach the task nothing, and what to do; empty if they do."""
    if batch_size >= task.least_rows:
        return ""
    return (
        f"training.batch_size: {batch_size} is written, and task {task.key()} compares the rows of a step with one "
        f"another, so that nothing is learned from {counted(batch_size, 'row')}: write {task.least_rows} or more"
    )
