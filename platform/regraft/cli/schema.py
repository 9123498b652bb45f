"""The JSON Schema of a spec, for editors, for checks, and for `regraft show`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from regraft.cli.screen import Reply, Screen
from regraft.contracts import Column, Loss, Medium, Method, Source, Task
from regraft.plugins import Plugin, add_folder
from regraft.spec.run import RunSpec

SPEC_FAMILIES: dict[str, type[Plugin]] = {"tasks": Task, "methods": Method, "losses": Loss, "sources": Source}
"""Families whose members a spec names."""
FAMILIES: dict[str, type[Plugin]] = {**SPEC_FAMILIES, "columns": Column, "media": Medium}

_TEMPLATE = "#/$defs/{model}"


def schema(args: argparse.Namespace, screen: Screen) -> Reply:
    """Print the JSON Schema of a spec (`schema`), with and without --json."""
    add_folders(args.plugins)
    document = run_schema()
    screen.say(json.dumps(document, indent=2, ensure_ascii=False))
    return Reply(document)


def add_folders(folders: Iterable[str]) -> None:
    """Add the user's plugin folders to the plugin families."""
    for folder in folders:
        add_folder(Path(folder).expanduser())


def run_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a spec with every plugin that is known now."""
    members = {root.__name__: {name: root.lookup(name) for name in root.names()} for root in SPEC_FAMILIES.values()}
    models: list[type[BaseModel]] = [RunSpec, *(member for family in members.values() for member in family.values())]
    # One call for all: then pydantic gives two plugins' models of the same name different keys.
    refs, shared = models_json_schema([(model, "validation") for model in models], ref_template=_TEMPLATE)
    definitions: dict[str, Any] = shared["$defs"]
    for family, known in members.items():
        keys = {name: _key(refs[(member, "validation")]) for name, member in known.items()}
        for name, key in keys.items():
            definitions[key] = _with_type(definitions[key], name)
        definitions[family] = _choice(family, keys, definitions)
    root = definitions.pop(_key(refs[(RunSpec, "validation")]))
    _add_shorthands(root, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "regraft run"}
    return {**head, **{key: value for key, value in root.items() if key != "title"}, "$defs": definitions}


def _key(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).removeprefix(_TEMPLATE.format(model=""))


def _with_type(member: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object form of a plugin: its fields and the `type` that chooses it."""
    properties = {"type": {"const": name}, **member.get("properties", {})}
    return {**member, "title": name, "properties": properties, "required": ["type", *member.get("required", ())]}


def _choice(family: str, keys: Mapping[str, str], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a family: the bare name of a member that needs no field, or a member's object."""
    bare = [name for name, key in keys.items() if definitions[key]["required"] == ["type"]]
    objects = [{"$ref": _TEMPLATE.format(model=key)} for key in keys.values()]
    names = [{"enum": bare, "description": "The name alone takes every default."}] if bare else []
    return {"title": family, "oneOf": [*names, *objects]}


def _add_shorthands(root: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Add what the loader accepts besides the fields' own types: a plugin folder without a list, a list of bases."""
    space = definitions["SearchSpec"]["properties"]["space"]
    listed = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    space["properties"] = {"base": {"anyOf": [listed, space["additionalProperties"]]}}
    folders = root["properties"]["plugins"]
    kept = {key: folders.pop(key) for key in ("default", "description", "title") if key in folders}
    root["properties"]["plugins"] = {"anyOf": [dict(folders), {"type": "string"}], **kept}


def described(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return a field's type as text: `integer ≥ 1 | null`."""
    if "$ref" in field:
        target = definitions.get(_key(field), {})
        return described(target, definitions) if "enum" in target else _key(field)
    if "const" in field:
        return json.dumps(field["const"])
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " | ".join(described(part, definitions) for part in field[several])
    kind = str(field.get("type", "anything"))
    if kind == "array":
        return f"list of {described(field.get('items', {}), definitions)}"
    if kind == "object" and isinstance(field.get("additionalProperties"), Mapping):
        return f"mapping to {described(field['additionalProperties'], definitions)}"
    return kind + bounds(field)


def bounds(field: Mapping[str, Any]) -> str:
    """Return the limits of a number or text: ` ≥ 1`."""
    if "examples" in field:
        return f" {field['examples'][0]}, for example"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "pattern": "like"}
    return "".join(f" {sign} {field[key]}" for key, sign in signs.items() if key in field)
