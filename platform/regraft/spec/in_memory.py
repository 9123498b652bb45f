"""The message for rows in memory, such as a DataFrame, where a spec names files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.errors import RequestError
from regraft.units import with_article

_TABLES = ("to_csv", "to_pandas", "column_names", "write_csv")
"""Attributes of tables: of pandas, Arrow, datasets, Polars."""

_PLACES = frozenset(["spec", *(f"data.{side}" for side in ("train", "eval", "test", "target", "target_labels"))])
"""What may be given as rows by mistake."""


def refuse_rows(place: str, value: object) -> None:
    """Raise RequestError if a value of a spec, or what is given as the spec, is a table, an array or a list of rows."""
    table = any(hasattr(value, name) for name in _TABLES)
    array = bool(getattr(value, "shape", ()))
    rows = place in _PLACES and isinstance(value, list | tuple)
    if not (table or array or rows):
        return
    name = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}".removeprefix("builtins ")
    writes = "its to_csv('rows.csv', index=False) writes" if hasattr(value, "to_csv") else "write"
    what = "a spec, which names files" if place == "spec" else "the path of a file, a folder or a glob"
    raise RequestError(
        f"{with_article(name)} is given; allowed is {what}. Rows in memory cannot be trained on yet: {writes} them to "
        "a file (CSV, Parquet, JSON lines), and name it as data.train",
        where=place,
    )


def leaves(document: Mapping[str, Any], path: str = "") -> list[tuple[str, object]]:
    """Return the values of a nested mapping by their dotted keys."""
    found: list[tuple[str, object]] = []
    for key, value in document.items():
        found += leaves(value, f"{path}{key}.") if isinstance(value, Mapping) else [(f"{path}{key}", value)]
    return found
