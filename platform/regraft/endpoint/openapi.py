"""The endpoint as OpenAPI 3.1: every path, every task's schemas, and those of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from regraft.contracts import ApiForm, Column, Schema, Task, column_of, columns_of
from regraft.contracts.api_form import TEXT
from regraft.endpoint.api_keys import ApiKey
from regraft.endpoint.backend import Backend
from regraft.endpoint.error_guard import result_or
from regraft.endpoint.form_fields import MULTIPART, URLENCODED
from regraft.endpoint.model_info import example_of, open_or_none
from regraft.endpoint.routes import BARE, ModelRoutes
from regraft.serving.row_checks import prediction_columns
from regraft.spec.column_names import Names
from regraft.spec.serve import ServeSpec
from regraft.version import VERSION

MAX_MODELS = 200
"""Further models are not loaded for their own schemas; the schemas of their tasks are in the document."""
ERRORS = {
    "401": "no key, or one that is not known",
    "403": "a key that is not for this model, or a web page of an origin that is not allowed",
    "404": "no such model, version or alias",
    "408": "the body took too long to arrive",
    "409": "the version's stored bytes are not those that were registered",
    "413": "more bytes, inputs, tokens or pixels than are allowed",
    "415": "a Content-Encoding or a kind of multipart that is not read",
    "422": "an input that does not fit the model; the message has its index and column",
    "424": "the model's base or plugin cannot be reached",
    "503": "too many requests at once; Retry-After gives the seconds to wait",
}
HEADERS = {
    "X-Model": "the model that answered",
    "X-Model-Version": "its version, such as v3",
    "X-Model-Delta": "SHA-256 of the delta that answered",
    "X-Model-Hash": "id of the version's manifest",
}
PACKED = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "schema": {"enum": ["gzip", "deflate", "identity"]},
    "description": "how the body is packed; its limit holds before and after unpacking",
}
ERROR: Schema = {
    "type": "object",
    "properties": {"error": TEXT, "kind": TEXT, "status": {"type": "integer"}},
    "required": ["error", "kind", "status"],
}


def document(routes: ModelRoutes, backend: Backend, key: ApiKey | None, spec: ServeSpec) -> dict[str, Any]:
    """Return the document; without a key it names no model."""
    tasks = {name: Task.lookup(name) for name in Task.names()}
    schemas: dict[str, Schema] = {"Error": ERROR}
    for name, task in tasks.items():
        schemas |= _schemas(name, task.model_validate({}), spec)
    paths = _paths(sorted(tasks))
    for model in [name for name in routes.models() if key and key.may(name)][:MAX_MODELS]:
        describe = partial(_model_paths, routes, backend, model, spec=spec)
        nothing: tuple[dict[str, Any], dict[str, Schema]] = ({}, {})
        model_paths, model_schemas = result_or(nothing, describe, f"{model} is not documented")
        paths, schemas = paths | model_paths, schemas | model_schemas
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "regraft",
            "version": VERSION,
            "description": "Adapted models, each asked in the Hugging Face Inference API form of its task: "
            "huggingface_hub.InferenceClient(model='.../models/NAME') works unchanged.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _schemas(name: str, task: Task, spec: ServeSpec) -> dict[str, Schema]:
    form, stem = task.api_form(), "".join(part.title() for part in name.split("-"))
    return {f"{stem}Request": _request(task, form, spec), f"{stem}Reply": _reply(form)}


def _request(task: Task, form: ApiForm, spec: ServeSpec, names: Mapping[str, Names] | None = None) -> Schema:
    one = input_schema(task, names)
    if form.several is not None:
        one = {"anyOf": [*one.get("anyOf", [one]), form.several.request]}
    return {
        "type": "object",
        "properties": {
            "inputs": {"anyOf": [one, {"type": "array", "items": one, "maxItems": spec.limits.items}]},
            **(form.parameters if form.at_root else {}),
            "parameters": {
                "type": "object",
                "properties": dict(form.parameters),
                "description": "null, false and empty values count as not set; other unknown parameters are refused",
            },
            "options": {"type": "object", "description": "accepted and ignored"},
            "stream": {"enum": [False, None]},
        },
        "required": ["inputs"],
        "additionalProperties": False,
        "examples": [{"inputs": example_of(task)}],
    }


def input_schema(task: Task, names: Mapping[str, Names] | None = None) -> Schema:
    """Return the JSON Schema of one input; `names` are the columns' names in the training files."""
    wanted = prediction_columns(task)
    properties = {name: column.request_schema() for name, column in columns_of(wanted).items()}
    forms = [next(iter(properties.values()))] if len(wanted) == 1 else []
    forms.append(_object(properties))
    trained = {name: (names or {}).get(name, name) for name in wanted}
    if trained != {name: name for name in wanted} and all(isinstance(name, str) for name in trained.values()):
        forms.append(_object({str(trained[name]): schema for name, schema in properties.items()}))
    return {"anyOf": forms} if len(forms) > 1 else forms[0]


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _reply(form: ApiForm) -> Schema:
    item = form.schema if form.several is None else {"anyOf": [form.schema, form.several.reply]}
    return {"anyOf": [form.schema_single(), {"type": "array", "items": item}]}


def _model_paths(
    routes: ModelRoutes, backend: Backend, model: str, *, spec: ServeSpec
) -> tuple[dict[str, Any], dict[str, Schema]]:
    """Return the paths of a model, and the schemas that they name."""
    served = open_or_none(backend, model, routes.find(model, BARE))
    if served is None:
        return {}, {}
    form, stem = served.task.api_form(), f"model-{model}"
    schemas = {f"{stem}-request": _request(served.task, form, spec, served.names), f"{stem}-reply": _reply(form)}
    summary = f"{model}: {served.task.key()}" + (f", labels {', '.join(served.labels)}" if served.labels else "")
    columns = list(columns_of(prediction_columns(served.task)).values())
    bare = [columns[0].media_type] if len(columns) == 1 and columns[0].media_type else []
    fields = columns_of(prediction_columns(served.task))
    post = _post(summary[:1000], f"{stem}-request", f"{stem}-reply", bodies=_other_bodies(bare, fields))
    return {f"/models/{model}": {"post": post}}, schemas


def _other_bodies(bare: Sequence[str], fields: Mapping[str, Column]) -> dict[str, Any]:
    """Return the bodies besides JSON: files as they are, and forms with a field for each column."""
    binary = {"type": "string", "format": "binary"}
    values = {name: binary if column.media_type else column.request_schema() for name, column in fields.items()}
    schema: Schema = {
        "type": "object",
        "properties": {**values, "parameters": {"type": "object"}},
        "description": "several fields of one name are several inputs",
    }
    forms = {MULTIPART: {"schema": schema}, URLENCODED: {"schema": schema}}
    return {**{media_type: {"schema": binary} for media_type in bare}, **forms}


def _post(
    summary: str, request: str, reply: str, *, bodies: Mapping[str, Any], parameters: Sequence[Any] = ()
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(request)}, **bodies}
    return {
        "summary": summary,
        "parameters": [*parameters, PACKED],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {
                "description": "one answer, or one for each input of a list",
                "headers": {name: {"description": text, "schema": TEXT} for name, text in HEADERS.items()},
                "content": {"application/json": {"schema": _ref(reply)}},
            },
            **_error_responses(),
        },
    }


def _media_types() -> list[str]:
    """Return every media type that some kind of column allows for a request's body."""
    return sorted({column_of(kind).media_type for kind in Column.names()} - {""})


def _paths(tasks: list[str]) -> dict[str, Any]:
    stems = ["".join(part.title() for part in name.split("-")) for name in tasks]
    reference = {
        "name": "reference",
        "in": "path",
        "required": True,
        "schema": TEXT,
        "description": "NAME, NAME@ALIAS or NAME@v3",
    }
    ask = _post("Ask a model", "Request", "Reply", bodies=_other_bodies(_media_types(), {}), parameters=[reference])
    ask["requestBody"]["content"]["application/json"]["schema"] = {"anyOf": [_ref(f"{stem}Request") for stem in stems]}
    ask["responses"]["200"]["content"]["application/json"]["schema"] = {
        "anyOf": [_ref(f"{stem}Reply") for stem in stems]
    }
    return {
        "/models": {"get": _get("Every model that the key allows")},
        "/models/{reference}": {
            "get": _get("One model: task, labels, versions, aliases, lineage, an example")
            | {"parameters": [reference]},
            "post": ask,
        },
        "/healthz": {"get": _get("Whether the process is alive")},
        "/readyz": {"get": _get("Whether models may be asked")},
    }


def _get(summary: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "summary": summary,
        "responses": {"200": {"description": "the document", "content": content}, **_error_responses()},
    }


def _error_responses() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {status: {"description": text, "content": content} for status, text in ERRORS.items()}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
