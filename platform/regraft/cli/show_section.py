"""`regraft show data|training|compute|search|serve|spec`: the fields of a section, read from its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from regraft.cli.schema import FAMILIES, bounds, described
from regraft.cli.screen import Reply, Screen
from regraft.errors import RequestError
from regraft.plugins import unknown
from regraft.spec.budget import BudgetSpec
from regraft.spec.run import RunSpec
from regraft.spec.search import SearchSpec
from regraft.spec.sections import ComputeSpec, DataSpec, TrainingSpec
from regraft.spec.serve import ServeSpec
from regraft.spec.stages import StageSpec

SECTIONS: dict[str, type[BaseModel]] = {
    "spec": RunSpec,
    "data": DataSpec,
    "training": TrainingSpec,
    "compute": ComputeSpec,
    "budget": BudgetSpec,
    "stages": StageSpec,
    "search": SearchSpec,
    "serve": ServeSpec,
}
_FAMILY_OF = {root.__name__: family for family, root in FAMILIES.items()}
"""The family by the name of its class, which stands for it in a JSON Schema."""
_KEYED = "FIELD"
"""Stands for a key that the user chooses, in the names of fields below it."""


def show_section(section: str, name: str | None, screen: Screen) -> Reply:
    """Show every field of a section, or one of them: its type, its default, what is allowed, and what it means."""
    model = SECTIONS[section]
    document = model.model_json_schema()
    fields = list(_fields(document, document.get("$defs", {}), ""))
    if name is not None:
        known = [field["name"] for field in fields]
        fields = [field for field in fields if field["name"] == name.removeprefix(f"{section}.")]
        if not fields:
            raise RequestError(unknown("field", name, known), where=f"show {section}")
    screen.head(section)
    screen.say(f"  {_summary(model)}")
    screen.say()
    _table(fields, screen)
    return Reply({"section": section, "summary": _summary(model), "fields": fields})


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _fields(document: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Iterator[dict[str, Any]]:
    """Yield the fields of a schema; those of a section inside it follow it, with its name before theirs."""
    required = document.get("required", ())
    for name, field in document.get("properties", {}).items():
        inner = _inner(field, definitions)
        elsewhere = inner in {model.__name__ for model in SECTIONS.values()}
        below = "" if inner is None else f"{path}{name}.{f'{_KEYED}.' if 'additionalProperties' in field else ''}"
        where = f"see `regraft show {name}`" if elsewhere else f"see {below}*"
        yield {
            "name": path + name,
            "type": "section" if inner else _type(field, definitions),
            "allowed": where if inner else _allowed(field, definitions),
            "default": None if name in required or inner else field.get("default"),
            "required": name in required,
            # A schema leaves out a field's text where its section has the same.
            "doc": field.get("description") or definitions.get(inner or "", {}).get("description", ""),
        }
        if inner is not None and not elsewhere:
            yield from _fields(definitions[inner], definitions, below)


def _inner(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str | None:
    """Return the name of the section that a field holds, or holds for each key; None if it holds none."""
    for part in _parts(field):
        each = part.get("additionalProperties")
        name = str((each if isinstance(each, Mapping) else part).get("$ref", "")).rpartition("/")[2]
        if name in definitions and name not in _FAMILY_OF and "properties" in definitions[name]:
            return name
    return None


def _parts(field: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the alternatives of a field's schema; the field itself if there is one form only."""
    parts: Sequence[Mapping[str, Any]] = field.get("anyOf") or field.get("oneOf") or [field]
    return parts


def _type(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return the types of a field without their limits: `number | null`."""
    names = [_type_of(part, definitions) for part in _parts(field)]
    return " | ".join(dict.fromkeys(names))


def _type_of(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    name = str(part.get("$ref", "")).rpartition("/")[2]
    if name in _FAMILY_OF:
        return name.lower()
    if "enum" in part or "const" in part:
        return "word" if all(isinstance(value, str) for value in _values(part)) else "integer"
    kind = str(part.get("type", "mapping" if name else "anything"))
    if kind == "array":
        items = part.get("items") or (part.get("prefixItems") or [{}])[0]
        return f"list of {_type(items, definitions)}"
    return {"object": "mapping", "string": "text"}.get(kind, kind)


def _allowed(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return what may be written: words, limits, or where the names are listed."""
    found = [text for part in _parts(field) if (text := _allowed_of(part, definitions))]
    return ", or ".join(dict.fromkeys(found))


def _allowed_of(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    name = str(part.get("$ref", "")).rpartition("/")[2]
    if name in _FAMILY_OF:
        return f"a name, or {{type: name, ...}}: see `regraft show {_FAMILY_OF[name]}`"
    if "enum" in part or "const" in part:
        return ", ".join(map(str, _values(part)))
    if part.get("type") == "null":
        return "null"
    if part.get("type") == "array":
        items = part.get("items") or (part.get("prefixItems") or [{}])[0]
        size = f"{part['minItems']} " if part.get("minItems") and part.get("minItems") == part.get("maxItems") else ""
        return f"a list of {size}({_allowed(items, definitions) or described(items, definitions)})"
    if isinstance(part.get("additionalProperties"), Mapping):
        inner = _allowed(part["additionalProperties"], definitions)
        return f"values {inner}" if inner else ""
    if part.get("type") == "boolean":
        return "true, false"
    return bounds(part).strip()


def _values(part: Mapping[str, Any]) -> Sequence[Any]:
    return part["enum"] if "enum" in part else [part["const"]]


def _table(fields: Sequence[Mapping[str, Any]], screen: Screen) -> None:
    rows = [
        (f"  {field['name']}", field["type"], field["allowed"], default_text(field), field["doc"]) for field in fields
    ]
    screen.table(("  field", "type", "allowed", "default", ""), rows)


def default_text(field: Mapping[str, Any]) -> str:
    """Return a field's default as YAML has it; `required` for a field without one."""
    if field["required"]:
        return "required"
    if field["type"] == "section":
        return ""
    default = field["default"]
    if isinstance(default, bool) or default is None:
        return {True: "true", False: "false", None: "null"}[default]
    return str(default).replace("()", "[]")
