"""Documents of specs: YAML files, overrides by dotted keys, and messages for what is wrong in them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from regraft.contracts import Loss, Method, Source, Task
from regraft.errors import RequestError, SpecError
from regraft.plugins import Frozen, Plugin, unknown

STANDARD_INPUT = "-"
"""The name of standard input in place of a file's, as other commands have it."""


def read_document(path: Path, wanted: str) -> dict[str, Any]:
    """Read a YAML file as a mapping; REGRAFT_STORE, where set, replaces its `store`.

    `wanted` describes the content for messages. Raises RequestError where the file is missing or no mapping.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError("there is no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"is not readable as YAML: {error}", where=str(path)) from None
    if not isinstance(document, dict):
        raise RequestError(wanted, where=str(path))
    if store := os.environ.get("REGRAFT_STORE"):
        document["store"] = store
    return document


def absolute(path: str) -> str:
    """Return a local path as an absolute one; URLs (`scheme://`) stay as they are."""
    if re.match(r"^[a-z][a-z0-9+.-]*://", path):
        return path
    return str(Path(os.path.abspath(Path(path).expanduser())))


def merged(document: Mapping[str, Any], overrides: Mapping[str, object], where: str = "") -> dict[str, Any]:
    """Return a copy of the document with values at dotted keys replaced.

    `method.depth` on `method: freeze` expands the short form. A document without a store gets that of REGRAFT_STORE,
    where it is set. Raises SpecError for a key inside of a plain value.
    """
    result: dict[str, Any] = json.loads(json.dumps(document, default=str))
    for dotted, value in overrides.items():
        at = result
        *parents, last = dotted.split(".")
        for parent in parents:
            inner = at.get(parent)
            if inner is None or (isinstance(inner, str) and parent in ("task", "method")):
                inner = at[parent] = {} if inner is None else {"type": inner}
            if not isinstance(inner, dict):
                raise SpecError((f"{dotted}: {parent} is {inner!r}, which has no fields",), where)
            at = inner
        at[last] = value
    if store := os.environ.get("REGRAFT_STORE"):
        result.setdefault("store", store)
    return result


def parse_set(pairs: list[str]) -> dict[str, object]:
    """Return pairs such as `["training.lr=1e-4"]` as overrides; values are YAML. Raises RequestError for other
    forms."""
    result: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise RequestError(
                f"{pair!r} is written; what is allowed is key=value, as in training.lr=1e-4", where="--set"
            )
        try:
            result[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(f"{value!r} is not a YAML value: {error}", where=f"--set {key}") from None
    return result


def problem(item: Mapping[str, Any], root: type[Frozen], document: Mapping[str, Any]) -> str:
    """Return the message of one pydantic error: path, what was written, what is allowed, the nearest match."""
    noise = re.compile(r"^(function-|constrained-|tuple\[|dict\[|lax-or-strict|(str|float|int)$)")
    path = ".".join(str(part) for part in item["loc"] if not noise.match(str(part)))
    written = item.get("input")
    kind, message = item["type"], str(item["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        parent, _, name = path.rpartition(".")
        return f"{path}: {unknown('key', name, sorted(known_keys(parent, root, document)))}"
    if kind == "missing":
        return f"{path}: is missing; it must be written"
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    if kind == "string_pattern_mismatch":
        return f"{path}: {written!r} is written; allowed are lower case letters, digits, dots, dashes (at most 64)"
    message = message.replace("valid tuple", "list").replace("tuple", "list").replace("valid dictionary", "mapping")
    return f"{path}: {written!r} is written; {message[0].lower()}{message[1:]}"


def known_keys(parent: str, root: type[Frozen], document: Mapping[str, Any]) -> list[str]:
    """Return the keys allowed at a dotted path; at a plugin's, those of the member that the document names there."""
    families: dict[str, type[Plugin]] = {"task": Task, "method": Method, "losses": Loss, "data.format": Source}
    family = families.get(".".join(part for part in parent.split(".") if not part.isdigit()))
    at: Any = document
    model: Any = root
    for part in filter(None, parent.split(".")):
        at = at[int(part)] if isinstance(at, list | tuple) else at[part]
        model = None if family else model.model_fields[part].annotation
        model = next((kind for kind in get_args(model) if hasattr(kind, "model_fields")), model)
    if family:
        model = family.lookup(at["type"] if isinstance(at, Mapping) else str(at))
    return list(model.model_fields)
