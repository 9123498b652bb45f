"""The spec that is stored beside a run or a version: read within bounds, and typed where other code looks into it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from regraft.errors import Damaged
from regraft.spec.yaml_words import parse_yaml
from regraft.store.bounded_yaml import MOST_BYTES
from regraft.store.schemas import Stored, check_types
from regraft.units import bytes_text


class StoredData(Stored):
    """The section `data` of a stored spec."""

    train: str = ""
    eval: Any = None
    test: Any = None
    target: Any = None
    target_labels: Any = None
    columns: dict[str, Any] = Field(default_factory=dict)


class StoredSpec(Stored):
    """A stored spec, as far as it is looked into without making a `RunSpec` of it."""

    name: str = ""
    base: str = ""
    store: str = ""
    data: StoredData = StoredData()
    training: dict[str, Any] = Field(default_factory=dict)
    compute: dict[str, Any] = Field(default_factory=dict)
    losses: list[dict[str, Any]] = Field(default_factory=list)
    plugins: list[str] = Field(default_factory=list)


def read_stored_spec(data: bytes, where: str) -> dict[str, Any]:
    """Return a stored spec as a document; empty for an empty file. Raises Damaged, which names what is wrong."""
    if len(data) > MOST_BYTES:
        raise Damaged(f"has {bytes_text(len(data))}; a spec has at most {bytes_text(MOST_BYTES)}", where)
    try:
        document = parse_yaml(data.decode("utf-8"))
    except ValueError as error:  # not UTF-8, no YAML, or beyond the bounds
        raise Damaged(f"is not readable as YAML: {error}", where) from None
    if document is None:
        return {}
    check_types(document, StoredSpec, where)
    found: dict[str, Any] = document
    return found
