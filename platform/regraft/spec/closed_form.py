"""Which closed-form methods go with which tasks."""

from __future__ import annotations

from regraft.contracts import Method, Task

_LACKS = {
    "prototypes": "needs one label a row, which task {task} has not",
    "patches": "describes the parts of usual inputs, and task {task} learns something else",
}


def problem_of_fit(method: Method, task: Task) -> str:
    """Return why a method does not go with a task, if it is for want of steps or of what is fitted; empty if not."""
    if method.closed_form:
        if method.fits in task.supports:
            return ""
        lacks = _LACKS.get(method.fits, f"fits {method.fits}, which task {{task}} has not")
        return f"method {method.key()} {lacks.format(task=task.key())}"
    if task.takes_steps:
        return ""
    return (
        f"method {method.key()} takes gradient steps, and task {task.key()} has none: write "
        f"{' or '.join(fitting_methods(task))}"
    )


def fitting_methods(task: Task) -> list[str]:
    """Return the keys of the closed-form methods that go with a task."""
    found = (name for name in Method.names() if Method.lookup(name).closed_form)
    return [name for name in found if Method.lookup(name).fits in task.supports]
