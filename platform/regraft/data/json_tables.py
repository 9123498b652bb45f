"""Rows inside a JSON document: under a key, or as pandas' `to_json` writes a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Orient = Literal["records", "columns", "index"]
_DEPTH = 3
"""Objects inside one another in which rows are looked for."""


def table_rows(value: Any, orient: Orient | None) -> list[Any] | None:
    """Return the rows of a table, in the form that `orient` names or that it shows itself; None where it shows none.

    It shows one as pandas writes it: by the names of its columns, or by rows numbered from 0 in two columns or more.

    Raises ValueError for columns of unequal length.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    if orient is None:
        return _described(value) or _numbered(value)
    if orient == "columns":
        return _of_columns(value)
    return list(value.values()) if orient == "index" else None


def find_inside(value: Any, field: str) -> Any:
    """Return the value under a key, or under keys with dots between them. Raises KeyError where there is none."""
    if not isinstance(value, Mapping):
        raise KeyError(field)
    if field in value:
        return value[field]
    first, dot, rest = field.partition(".")
    if not dot or first not in value:
        raise KeyError(field)
    return find_inside(value[first], rest)


def fields_of_rows(value: Any, wanted: Sequence[str]) -> list[str]:
    """Return the keys under which rows with the columns `wanted` stand; without columns, all with a list of rows."""
    found = dict(_tables(value, _DEPTH))
    if not wanted:
        return [field for field in found if isinstance(_at(value, field), list)]
    columns = {name.partition(".")[0] for name in wanted}
    return [field for field, row in found.items() if columns <= row.keys() or set(wanted) <= row.keys()]


def is_index(value: Any, wanted: Sequence[str]) -> bool:
    """Return whether all values are rows with the columns `wanted`, so that the keys are the rows' names."""
    rows = list(value.values()) if isinstance(value, Mapping) else []
    return len(rows) > 1 and bool(wanted) and all(isinstance(row, dict) and set(wanted) <= row.keys() for row in rows)


def _tables(value: Any, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each key (dotted) under which a list of objects stands, or an object, with the first row."""
    for key, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner[:100]):
            yield key, inner[0]
        elif isinstance(inner, dict) and inner and depth:
            yield key, inner
            yield from ((f"{key}.{field}", row) for field, row in _tables(inner, depth - 1))


def _at(value: Any, field: str) -> Any:
    try:
        return find_inside(value, field)
    except KeyError:
        return None


def _described(value: dict[str, Any]) -> list[Any] | None:
    """Return the rows of a table that names its columns: `orient="split"` or `"table"`."""
    names: Any = value.get("columns")
    data: Any = value.get("data")
    lists = isinstance(names, list) and isinstance(data, list)
    if lists and value.keys() <= {"columns", "index", "data"} and _have_length(data, len(names)):
        return [dict(zip(map(str, names), row, strict=True)) for row in data]
    schema = value.get("schema")
    if isinstance(schema, dict) and "fields" in schema and isinstance(data, list) and len(value) == 2:
        return data
    return None


def _have_length(rows: list[Any], length: int) -> bool:
    return all(isinstance(row, list) and len(row) == length for row in rows)


def _numbered(value: dict[str, Any]) -> list[Any] | None:
    """Return the rows of a table of objects, if either the columns' values or the rows are numbered."""
    inner = list(value.values())
    if not inner or not all(isinstance(item, dict) and item for item in inner):
        return None
    outside, inside = _are_numbers(value), all(map(_are_numbers, inner))
    if inside and not outside:
        return _of_columns(value) if len(inner) > 1 and all(row.keys() == inner[0].keys() for row in inner) else None
    return inner if outside and not inside and any(len(row) > 1 for row in inner) else None


def _are_numbers(keys: Mapping[str, Any]) -> bool:
    """Return whether keys are 0, 1, 2 and so on, as pandas numbers rows."""
    return set(keys) == {str(number) for number in range(len(keys))}


def _of_columns(value: dict[str, Any]) -> list[Any]:
    """Return rows made of columns, which are lists of values, or objects with the rows' names."""
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns):
        lengths = {name: len(column) for name, column in value.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "the columns do not have the same length: " + ", ".join(f"{n} {c}" for n, c in lengths.items())
            )
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if not all(isinstance(column, dict) for column in columns):
        raise ValueError("the columns are neither all lists nor all objects")
    names = dict.fromkeys(name for column in columns for name in column)
    return [{column: cells[name] for column, cells in value.items() if name in cells} for name in names]
