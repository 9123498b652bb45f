"""What a method needs of the task, and one that trains features of the rest of a spec."""

from __future__ import annotations

from collections.abc import Sequence

from regraft.contracts import Loss, Method, Task
from regraft.spec.sections import ComputeSpec, TrainingSpec


def problem_of_needs(method: Method, task: Task) -> str:
    """Return what a method needs of the task that it does not have, and what to do; empty if nothing."""
    if "prompts" in method.needs() - task.supports:
        return (
            f"method.of: prompts is written, and the head of task {task.key()} does not start from prompts: write of: "
            "rows, or a task for bases that read images and texts"
        )
    return ""


def problem_of_features(
    method: Method, task: Task, losses: Sequence[Loss], *, training: TrainingSpec, compute: ComputeSpec
) -> str:
    """Return what does not go with a method that trains features, and what to do; empty if nothing."""
    name = method.key()
    if not method.trains_features:
        return ""
    if "prototypes" not in task.supports:
        return f"method {name} compares rows by their one label, which task {task.key()} has not"
    if losses:
        return f"method {name} has a loss of its own in place of the task's: remove losses, or write another method"
    if training.accumulation > 1:
        return (
            f"method {name} compares all rows of a step, and training.accumulation: {training.accumulation} gives it a "
            "part of them: write accumulation 1"
        )
    if compute.strategy == "fsdp":
        return f"compute.strategy: fsdp with method {name}: its head is solved whole; write ddp"
    return ""
