"""Conversion of Arrow tables to rows of plain Python values, with class names if the writer stored them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from regraft.errors import DataError

BATCH_ROWS = 1024
"""Rows that are converted to Python values at a time."""

_HARMLESS = b"datasets.features.features.Array"
"""Extension type for arrays of the `datasets` library: it runs no code, and is a list unless that is imported."""


def plain_rows(batch: pa.RecordBatch, features: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch, `BATCH_ROWS` at a time in memory; class numbers become names by `features`."""
    named = {name: feature for name, feature in features.items() if _has_label_names(feature)}
    for start in range(0, batch.num_rows, BATCH_ROWS):
        for values in batch.slice(start, BATCH_ROWS).to_pylist():
            for name in named.keys() & values.keys():
                values[name] = _name_labels(values[name], named[name])
            yield values


def schema_features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that the `datasets` library wrote into a schema; empty for another writer."""
    try:
        document = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return document_features(document.get("info") if isinstance(document, dict) else None)


def document_features(info: object) -> dict[str, Any]:
    """Return the columns' features in a document of the `datasets` library (`dataset_info.json`)."""
    features = info.get("features") if isinstance(info, dict) else None
    return features if isinstance(features, dict) else {}


def refuse_extensions(schema: pa.Schema, path: Path) -> None:
    """Raise DataError for a column of an extension type, because reading one may run its code."""
    for field in schema:
        if name := _extension(field):
            raise DataError(
                f"column {field.name!r} is of the extension type {name}; only plain types are read: "
                "store the column as its plain type",
                str(path),
            )


def _extension(field: pa.Field) -> str | None:
    """Return the name of an extension type, at any depth. A type unknown to this process is in the metadata alone."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type)
    extension = (field.metadata or {}).get(b"ARROW:extension:name")
    if extension is not None and not extension.startswith(_HARMLESS):
        return str(extension.decode("utf-8", "replace"))
    inner = [field.type.field(index) for index in range(field.type.num_fields)]
    return next((name for child in inner if (name := _extension(child))), None)


def _has_label_names(feature: Any) -> bool:
    """Return whether a feature contains class labels, at any depth."""
    if isinstance(feature, list):
        return any(map(_has_label_names, feature))
    if not isinstance(feature, dict):
        return False
    return feature.get("_type") == "ClassLabel" or any(map(_has_label_names, feature.values()))


def _name_labels(value: Any, feature: Any) -> Any:
    """Replace class numbers in a value by class names.

    Features nest as all versions of the `datasets` library write them. A list is `{feature: ..., _type: Sequence |
    List | LargeList}`, in early versions also `[...]`; a sequence of structures is stored as a structure of lists. A
    number without a name stays a number; -1 means no label.
    """
    if value is None or not isinstance(feature, dict | list):
        return value
    if isinstance(feature, list):
        return [_name_labels(item, feature[0]) for item in value] if feature and isinstance(value, list) else value
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, list):
        if isinstance(value, int) and value >= 0:
            return names[value] if value < len(names) else value
        return None if value == -1 else value
    if "feature" in feature and "_type" in feature:
        inner = feature["feature"]
        if isinstance(value, list):
            return [_name_labels(item, inner) for item in value]
        feature = inner if isinstance(inner, dict) else {}
        return {key: [_name_labels(item, feature.get(key)) for item in items or []] for key, items in value.items()}
    if isinstance(value, dict):
        return {key: _name_labels(item, feature.get(key)) for key, item in value.items()}
    return value
