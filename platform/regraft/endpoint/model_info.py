"""What is told of a model: its task, labels, versions, aliases, where it comes from, and how it is asked."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw

from regraft.contracts import Kind, Task
from regraft.endpoint.api_keys import EVERYTHING, ApiKey
from regraft.endpoint.backend import Backend
from regraft.endpoint.http_errors import unplaced
from regraft.endpoint.inference_api import form_of
from regraft.endpoint.routes import BARE, ModelRoute, ModelRoutes
from regraft.errors import RegraftError
from regraft.serving.engine.engine import ServedVersion
from regraft.serving.row_checks import inputs

LINEAGE = ("lineage", "base", "created", "versions")
EXAMPLES: Mapping[Kind, Any] = {
    "text": "the lamp drops off wifi every night",
    "words": "Ada Lovelace lived in London",
    "messages": [{"role": "user", "content": "How do I reset the lamp?"}],
    "number": 1.0,
    "texts": ["one", "two"],
}
SECOND = "the light loses its connection at night"


def listing(routes: ModelRoutes, key: ApiKey) -> dict[str, Any]:
    """Every model that the key is for, without opening any."""
    return {"models": [_brief(routes, name) for name in routes.models() if key.may(name)]}


def shown(
    routes: ModelRoutes, backend: Backend, name: str, ref: str = BARE, key: ApiKey = EVERYTHING
) -> dict[str, Any]:
    """One model as it answers now by this reference. NotFound, which names only models that the key is for, or what is
    wrong with its version."""
    version = routes.find(name, ref, [model for model in routes.models() if key.may(model)])
    served = backend.open(name, version)
    return {**_brief(routes, name), **of_version(served)}


def of_version(served: ServedVersion) -> dict[str, Any]:
    """What an open version says of itself."""
    meta, form = served.meta, form_of(served.task)
    return {
        "version": served.version,
        "delta_sha256": served.delta_sha256,
        "hash": served.hash,
        "task": served.task.key(),
        "form": form.name,
        "labels": list(served.labels),
        "inputs": dict(inputs(served.task)),
        "example": {"inputs": example_of(served.task)},
        "parameters": dict(form.parameters),
        "metrics": dict(meta.get("metrics") or {}),
        "method": (meta.get("method") or {}).get("type"),
        "lineage": _unplaced({name: meta[name] for name in LINEAGE if name in meta}),
    }


def example_of(task: Task) -> Any:
    """An input of the task, ready to send."""
    wanted = inputs(task)
    values = {name: _example(kind, second=number > 0) for number, (name, kind) in enumerate(wanted.items())}
    return next(iter(values.values())) if len(values) == 1 else values


def safely(backend: Backend, name: str, version: str) -> ServedVersion | None:
    """The version, or None where it cannot be opened."""
    try:
        return backend.open(name, version)
    except RegraftError:
        return None


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
        found["trouble"] = unplaced(route.trouble)
    return found


def _unplaced(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _unplaced(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unplaced(item) for item in value]
    return unplaced(value) if isinstance(value, str) else value


def _example(kind: Kind, *, second: bool) -> Any:
    if kind == "image":
        return picture()
    return SECOND if second and kind == "text" else EXAMPLES.get(kind, "")


@lru_cache
def picture() -> str:
    """A small picture in base64."""
    image = Image.new("RGB", (64, 48), "#dfe7ee")
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 10, 30, 38), fill="#b3452f")
    draw.ellipse((36, 12, 58, 34), fill="#2f6db3")
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
