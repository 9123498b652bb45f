"""Arrow tables as rows of plain Python values, with the names of classes where their writer left them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from regraft.errors import DataError

PIECE = 1024
"""Rows that are turned into Python values at a time."""

_HARMLESS = b"datasets.features.features.Array"
"""Matrices of the `datasets` library: lists where it has not been imported, and its name for them runs nothing."""


def plain_rows(batch: pa.RecordBatch, features: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a batch, a thousand at a time in memory; class numbers become names as `features` tells them."""
    named = {name: feature for name, feature in features.items() if _has_names(feature)}
    for start in range(0, batch.num_rows, PIECE):
        for values in batch.slice(start, PIECE).to_pylist():
            for name in named.keys() & values.keys():
                values[name] = _named(values[name], named[name])
            yield values


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """What the `datasets` library wrote of the columns into a schema; empty where it was another writer."""
    try:
        document = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return {}
    return features_in(document.get("info") if isinstance(document, dict) else None)


def features_in(info: object) -> dict[str, Any]:
    """The columns' features in a document of the `datasets` library (`dataset_info.json`)."""
    features = info.get("features") if isinstance(info, dict) else None
    return features if isinstance(features, dict) else {}


def refuse_extensions(schema: pa.Schema, path: Path) -> None:
    """DataError for a column of an extension type, because reading one may run its code."""
    for field in schema:
        if name := _extension(field):
            raise DataError(
                f"column {field.name!r} is of the extension type {name}; only plain types are read: "
                "store the column as its plain type",
                str(path),
            )


def _extension(field: pa.Field) -> str | None:
    """The extension type's name, at any depth; one that this process does not know shows in the metadata alone."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type)
    named = (field.metadata or {}).get(b"ARROW:extension:name")
    if named is not None and not named.startswith(_HARMLESS):
        return str(named.decode("utf-8", "replace"))
    inner = [field.type.field(index) for index in range(field.type.num_fields)]
    return next((name for part in inner if (name := _extension(part))), None)


def _has_names(feature: Any) -> bool:
    if isinstance(feature, list):
        return any(map(_has_names, feature))
    if not isinstance(feature, dict):
        return False
    return feature.get("_type") == "ClassLabel" or any(map(_has_names, feature.values()))


def _named(value: Any, feature: Any) -> Any:
    """A value with class numbers as names; features nest as the `datasets` library writes them, in all its versions.

    A list is `{feature: ..., _type: Sequence | List | LargeList}`, in early versions also `[...]`; a sequence of
    structures is kept as a structure of lists. A number without a name stays a number; -1 is no label.
    """
    if value is None or not isinstance(feature, dict | list):
        return value
    if isinstance(feature, list):
        return [_named(item, feature[0]) for item in value] if feature and isinstance(value, list) else value
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, list):
        if isinstance(value, int) and value >= 0:
            return names[value] if value < len(names) else value
        return None if value == -1 else value
    if "feature" in feature and "_type" in feature:
        inner = feature["feature"]
        if isinstance(value, list):
            return [_named(item, inner) for item in value]
        feature = inner if isinstance(inner, dict) else {}
        return {key: [_named(item, feature.get(key)) for item in items or []] for key, items in value.items()}
    if isinstance(value, dict):
        return {key: _named(item, feature.get(key)) for key, item in value.items()}
    return value
