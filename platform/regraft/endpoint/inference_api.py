"""Requests and replies in the form of the Hugging Face Inference API: parameters checked, answers rendered.

One input is `{"inputs": ...}`, and its answer is what the client of that task reads; a list of inputs gets a list of
answers. `parameters` are honoured or refused, never ignored. The task states the form; an answer that does not fit it
is sent unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.contracts import Answer, ApiForm, Schema, Task, own_form
from regraft.contracts.column import json_name
from regraft.endpoint.http_errors import wrong
from regraft.plugins import unknown
from regraft.units import with_article

_UNSET: tuple[Any, ...] = (None, "", [], {})


def form_for(form: ApiForm, answer: Answer) -> ApiForm:
    """Return the form that fits an answer: the task's, or the plain one for answers without its keys."""
    return form if any(name in answer for name in form.holds) else own_form()


def parameters_of(task: Task, written: Any) -> dict[str, Any]:
    """Return a client's parameters, checked; those that are null, false or empty count as not set.

    Raises HttpError 422 for an unknown parameter or a wrong value.
    """
    if written is None:
        return {}
    if not isinstance(written, Mapping):
        raise wrong(f"parameters is {with_article(json_name(written))}; allowed is an object")
    form = task.api_form()
    # A zero is set: it would be dropped without a word if it counted as empty.
    chosen = {str(name): value for name, value in written.items() if value is not False and value not in _UNSET}
    for name, value in chosen.items():
        if name not in form.parameters:
            raise wrong(_unknown_parameter(name, task, sorted(form.parameters)))
        _checked(name, value, form.parameters[name])
    for name, lowest in form.lowest.items():
        if chosen.get(name, lowest) < lowest:
            raise wrong(
                f"{name} {chosen[name]:g} is written; allowed is {lowest:g} or more for this model: answers below it "
                f"are not computed, as task.{name} of its spec says; train it with a lower one to get them"
            )
    return chosen


def _unknown_parameter(name: str, task: Task, known: list[str]) -> str:
    """Return the message for a parameter that a request cannot set; a field of the task is set in training."""
    fields = type(task).model_fields
    if name in fields:
        now = str(getattr(task, name))[:80]
        return (
            f"parameters.{name} cannot be set by a request: it is {now} for this model, as task.{name} of the spec "
            "that it was trained by; leave it out, or train with another value"
        )
    problem = (
        unknown("parameter", name[:80], known) if known else f"Unknown parameter {name[:80]!r}. This task has none."
    )
    settings = f" (task.{', task.'.join(fields)})" if fields else ""
    return f"{problem} Leave it out: what a model does is set when it is trained{settings}"


def _checked(name: str, value: Any, schema: Schema) -> None:
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if "enum" in schema:
        good = value in schema["enum"]
        allowed = ", ".join(map(repr, schema["enum"]))
    elif schema["type"] == "array":
        good, allowed = isinstance(value, list) and all(isinstance(item, str) for item in value), "a list of texts"
    elif schema["type"] == "integer":
        most = schema.get("maximum")
        good = number and isinstance(value, int) and 1 <= value <= (value if most is None else most)
        allowed = "a whole number from 1 on" if most is None else f"a whole number from 1 to {most} for this model"
    else:
        good, allowed = number and 0 <= value <= 1, "a number from 0 to 1"
    if not good:
        raise wrong(f"parameters.{name} is {str(value)[:80]!r}; allowed is {allowed}")
