"""`regraft show`: the plugins that a spec may name with their fields, and the fields of a spec's sections."""

from __future__ import annotations

import argparse
import inspect
import json
from dataclasses import asdict
from typing import Any

from regraft.cli.schema import FAMILIES, add_folders, described
from regraft.cli.screen import Reply, Screen
from regraft.cli.show_section import SECTIONS, show_section
from regraft.contracts import Column, Medium, Method, Source, Task, TrainingFacts
from regraft.plugins import Plugin
from regraft.spec.sections import TrainingSpec

_ROWS = (100, 1000, 10_000)
"""Numbers of training rows that epochs are shown for."""
_BATCH = TrainingSpec().batch_size


def show(args: argparse.Namespace, screen: Screen) -> Reply:
    """Show the members of a family, or one of them with its fields; or a section with its fields (`show`)."""
    add_folders(args.plugins)
    if args.family in SECTIONS:
        return show_section(args.family, args.name, screen)
    root = FAMILIES[args.family]
    if args.name:
        document = _document(root.lookup(args.name))
        _show_member(document, screen)
        return Reply(document)
    members = [_document(root.lookup(name)) for name in root.names()]
    if members:
        screen.table((args.family, ""), [(member["name"], member["summary"]) for member in members])
        screen.say(f"\nregraft show {args.family} NAME shows the fields of one")
    else:
        screen.say(f"there are no {args.family}")
    return Reply({args.family: members})


def _document(member: type[Plugin]) -> dict[str, Any]:
    text = inspect.cleandoc(member.__doc__ or "")
    return {
        "name": member.key(),
        "summary": text.partition("\n")[0],
        "doc": text,
        **_attributes(member),
        "fields": _fields(member),
    }


def _attributes(member: type[Plugin]) -> dict[str, Any]:
    """Return the attributes of the class that a user may want to know, besides its fields."""
    if issubclass(member, Task):
        score = {"name": member.score.name, "mode": member.score.mode}
        return {"columns": dict(member.columns), "score": score, "supports": sorted(member.supports)}
    if issubclass(member, Method):
        phases = {"phases": True} if member.has_phases() else {}
        return {"serves": _serves(member), "closed_form": member.closed_form, **phases, "auto": _auto(member)}
    if issubclass(member, Source):
        return {"suffixes": list(member.suffixes)}
    if issubclass(member, Column):
        return {"target": member.target, "arrow": str(member.arrow), "schema": member().request_schema()}
    if issubclass(member, Medium):
        return {"processor": member.auto, "files": list(member.files)}
    return {}


def _auto(method: type[Method]) -> dict[str, Any]:
    """Return the values of the training keys that are `auto`, by what a row is; none for a method without steps."""
    if method.closed_form or any(field.is_required() for field in method.model_fields.values()):
        return {}
    made = method()
    return {
        name: {
            **asdict(made.defaults(TrainingFacts(_ROWS[0], _BATCH, tokens=tokens))),
            "epochs": {rows: made.defaults(TrainingFacts(rows, _BATCH, tokens=tokens)).epochs for rows in _ROWS},
        }
        for name, tokens in (("tokens", True), ("pictures", False))
    }


def _serves(method: type[Method]) -> str:
    """Return how a method's models are served; if that depends on its fields, for their defaults."""
    if not isinstance(vars(method).get("serves"), property):
        return method.serves
    needs = any(field.is_required() for field in method.model_fields.values())
    return "depends on its fields" if needs else f"{method().serves} (depends on its fields)"


def _fields(member: type[Plugin]) -> list[dict[str, Any]]:
    document = member.model_json_schema()
    definitions, required = document.get("$defs", {}), document.get("required", ())
    return [
        {
            "name": name,
            "type": described(field, definitions),
            "default": None if name in required else field.get("default"),
            "required": name in required,
            "doc": field.get("description", ""),
        }
        for name, field in document.get("properties", {}).items()
    ]


def _show_member(document: dict[str, Any], screen: Screen) -> None:
    screen.head(document["name"])
    for line in document["doc"].splitlines():
        screen.say(f"  {line}")
    facts = {key: value for key, value in document.items() if key not in ("name", "summary", "doc", "fields", "auto")}
    lines = [(key.replace("_", " "), _plain(value)) for key, value in facts.items()]
    lines += [(f"auto for {rows}", _auto_text(values)) for rows, values in document.get("auto", {}).items()]
    if lines:
        screen.say()
        screen.facts(lines)
    screen.say()
    if document["fields"]:
        rows = [(f"  {f['name']}", f["type"], _default(f), f["doc"]) for f in document["fields"]]
        screen.table(("  field", "type", "default", ""), rows)
    else:
        screen.say(f"  It has no fields: the bare name {document['name']} is a complete value.")


def _auto_text(values: dict[str, Any]) -> str:
    """Return `lr 0.01, head_factor 1, warmup 0.1; epochs 50 (100 rows), 13 (1,000 rows)`."""
    keys = ", ".join(f"{key} {value:g}" for key, value in values.items() if key != "epochs")
    return f"{keys}; epochs " + ", ".join(f"{epochs} ({rows:,} rows)" for rows, epochs in values["epochs"].items())


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} ({item})" for key, item in value.items()) if "mode" not in value else _score(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _score(value: dict[str, Any]) -> str:
    return f"{value['name']} ({'higher' if value['mode'] == 'max' else 'lower'} is better)"


def _default(field: dict[str, Any]) -> str:
    if field["required"]:
        return "required"
    default = field["default"]
    return default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)
