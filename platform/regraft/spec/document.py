"""Documents of specs: YAML files, and overrides by dotted keys."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.errors import Damaged, NotFound, RequestError, SpecError
from regraft.spec.yaml_words import parse_yaml
from regraft.store.bounded_yaml import MOST_BYTES
from regraft.store.objects import open_store

STANDARD_INPUT = "-"
"""The name of standard input in place of a file's, as other commands have it."""


def read_document(path: Path, wanted: str) -> dict[str, Any]:
    """Read a YAML file, local or in S3, as a mapping; REGRAFT_STORE, where set, replaces its `store`.

    `wanted` describes the content for messages. Raises RequestError where the file is missing or no mapping.
    """
    where = re.sub(r"^s3:/+", "s3://", str(path))  # a path has no two slashes
    try:
        document = parse_yaml(_text_of(where))
    except (FileNotFoundError, NotFound):
        raise RequestError("there is no such file", where=where) from None
    except (OSError, ValueError, Damaged) as error:
        raise RequestError(f"is not readable as YAML: {error}", where=where) from None
    if not isinstance(document, dict):
        raise RequestError(wanted, where=where)
    if store := os.environ.get("REGRAFT_STORE"):
        document["store"] = store
    return document


def _text_of(where: str) -> str:
    """Return the text of a file, or of an object `s3://bucket/key`, within the bound of a YAML text."""
    if not where.startswith("s3://"):
        with Path(where).open(encoding="utf-8") as file:
            return file.read(MOST_BYTES + 1)
    bucket, _, key = where.removeprefix("s3://").partition("/")
    return open_store(f"s3://{bucket}").read(key, MOST_BYTES)[0].decode("utf-8")


def absolute(path: str) -> str:
    """Return a local path as an absolute one; URLs (`scheme://`) stay as they are."""
    if re.match(r"^[a-z][a-z0-9+.-]*://", path):
        return path
    return str(Path(os.path.abspath(Path(path).expanduser())))


def absolute_base(reference: str) -> str:
    """Return the reference of a base with an absolute path, where it names a folder."""
    is_path = re.match(r"^(\.{0,2}/|~)", reference) or Path(reference).is_dir()
    return absolute(reference) if is_path else reference


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
            result[key.strip()] = parse_yaml(value, key.strip())
        except ValueError as error:
            raise RequestError(f"{value!r} is not a YAML value: {error}", where=f"--set {key}") from None
    return result
