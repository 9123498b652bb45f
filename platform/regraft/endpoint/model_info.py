"""The description of a model: task, labels, versions, aliases, lineage, and how to ask it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from regraft.contracts import Column, Task, columns_of
from regraft.endpoint.api_keys import EVERYTHING, ApiKey
from regraft.endpoint.backend import Backend
from regraft.endpoint.error_guard import result_or
from regraft.endpoint.http_errors import without_folders
from regraft.endpoint.routes import BARE, ModelRoute, ModelRoutes
from regraft.serving.engine.engine import ServedVersion
from regraft.serving.row_checks import prediction_columns

DAMAGED = "its entry of the registry is damaged; the server's log has the details"
LINEAGE = ("lineage", "base", "created", "versions")


def list_models(routes: ModelRoutes, key: ApiKey) -> dict[str, Any]:
    """Return every model that the key allows, without loading any."""
    names = [name for name in routes.models() if key.may(name)]
    return {
        "models": [result_or({"name": name, "trouble": DAMAGED}, partial(_brief, routes, name), name) for name in names]
    }


def describe_model(
    routes: ModelRoutes, backend: Backend, name: str, ref: str = BARE, *, key: ApiKey = EVERYTHING
) -> dict[str, Any]:
    """Return the description of a model as it answers now by this reference.

    Raises NotFound, which suggests only models that the key allows, and the errors of loading its version.
    """
    version = routes.find(name, ref, [model for model in routes.models() if key.may(model)])
    served = backend.open(name, version)
    return {**_brief(routes, name), **describe_version(served)}


def describe_version(served: ServedVersion) -> dict[str, Any]:
    """Return the description of a loaded version."""
    meta, form = served.meta, served.task.api_form()
    return {
        "version": served.version,
        "delta_sha256": served.delta_sha256,
        "hash": served.hash,
        "task": served.task.key(),
        "form": form.name,
        "labels": list(served.labels),
        "view": form.view,
        "client": form.name.replace("-", "_") if form.client else None,
        "inputs": dict(prediction_columns(served.task)),
        "training_names": {name: names for name, names in served.names.items() if names != name},
        "fields": {name: _field(column) for name, column in columns_of(prediction_columns(served.task)).items()},
        "example": {"inputs": example_of(served.task)},
        "parameters": dict(form.parameters),
        "metrics": dict(meta.get("metrics") or {}),
        "method": (meta.get("method") or {}).get("type"),
        "lineage": _without_paths({name: meta[name] for name in LINEAGE if name in meta}),
    }


def example_of(task: Task) -> Any:
    """Return an input of the task, ready to send."""
    wanted = columns_of(prediction_columns(task))
    values = {name: column.example(place) for place, (name, column) in enumerate(wanted.items())}
    return next(iter(values.values())) if len(values) == 1 else values


def _field(column: Column) -> dict[str, str]:
    """Return how the page asks for a value, and which files it lets a user choose."""
    return {"widget": column.widget, "accept": column.media_type, "called": column.called}


def open_or_none(backend: Backend, name: str, version: str) -> ServedVersion | None:
    """Return the version, or None when it cannot be loaded."""
    return result_or(None, lambda: backend.open(name, version), f"{name}@{version} cannot be loaded")


def _brief(routes: ModelRoutes, name: str) -> dict[str, Any]:
    view = routes.registry_view(name)
    answers = {ref or "default": _route(route) for (_, ref), route in sorted(routes.routes_of(name).items())}
    return {
        "name": name,
        "versions": list(view.versions) if view else [],
        "aliases": dict(view.aliases) if view else {},
        "answers": answers,
    }


def _route(route: ModelRoute) -> dict[str, Any]:
    found: dict[str, Any] = {"versions": dict(route.answering)}
    if route.wanted != route.answering:
        found["moves_to"] = dict(route.wanted)
    if route.trouble:
        found["trouble"] = without_folders(route.trouble)
    return found


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return without_folders(value) if isinstance(value, str) else value
