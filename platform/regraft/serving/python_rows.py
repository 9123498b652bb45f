"""Rows as Python callers hold them: lists, tables of pandas, Arrow, Polars or `datasets`, arrays, or one bare row."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Set
from typing import Any

import pyarrow as pa

from regraft.contracts import Column
from regraft.errors import DataError
from regraft.units import with_article

_GAPS = ("NAType", "NaTType")
"""Types of pandas' values for an empty cell."""


def listed(given: Any, wanted: Mapping[str, Column], names: Collection[str] = ()) -> tuple[Iterable[Any], bool]:
    """Return rows one by one, and whether they come from a table, which may have further columns.

    One text, path, file, picture, conversation or mapping is one row, as is a Series with a column's name (or one of
    `names`). Raises DataError for anything else that holds no rows, and for a set, which has no order.
    """
    if _of_pandas(given, "Series"):
        return [given] if not {*wanted, *names}.isdisjoint(given.index) else given.tolist(), False
    if isinstance(given, str | bytes | os.PathLike) or as_mapping(given) is not None:
        return [given], False
    if len(wanted) == 1 and next(iter(wanted.values())).is_one(given):
        return [given], False
    if (table := table_of(given)) is not None:
        return table, True
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return given.to_pylist(), False
    if isinstance(given, Set):
        raise DataError("a set is given, which has no order: write a list of rows", where="rows")
    try:
        return iter(given), False
    except TypeError:
        kind = with_article(type(given).__name__)
        raise DataError(
            f"{kind} is given; allowed is a list of rows, a table (pandas, pyarrow), or one row",
            where="rows",
        ) from None


def as_mapping(given: Any) -> Mapping[str, Any] | None:
    """Return a row as a mapping; None where it is none. A row of a DataFrame is one by its index."""
    if isinstance(given, Mapping):
        return given
    if hasattr(given, "_asdict"):  # a row of DataFrame.itertuples
        found: Mapping[str, Any] = given._asdict()
        return found
    named = _of_pandas(given, "Series") and all(isinstance(name, str) for name in given.index)
    return given.to_dict() if named else None


def is_missing(value: Any) -> bool:
    """Return whether a value stands for an empty cell: None, NaN, or what pandas writes for them."""
    return value is None or type(value).__name__ in _GAPS or (isinstance(value, float) and math.isnan(value))


def table_of(given: Any) -> Iterable[Mapping[str, Any]] | None:
    """Return the rows of a table as mappings, or None. Raises DataError where two columns have one name."""
    found: Iterable[Mapping[str, Any]] | None = None
    if _of_pandas(given, "DataFrame"):
        names = list(map(str, given.columns))
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"the table has two columns {', '.join(map(repr, twice))}: rename one", where="rows")
        found = given.set_axis(names, axis="columns").to_dict("records")
    elif isinstance(given, pa.RecordBatchReader):
        found = given.read_all().to_pylist()
    elif isinstance(given, pa.Table | pa.RecordBatch):
        found = given.to_pylist()
    elif hasattr(given, "column_names"):  # `datasets`
        found = iter(given)
    elif hasattr(given, "iter_rows") and hasattr(given, "columns"):  # Polars
        found = given.iter_rows(named=True)
    return found


def _of_pandas(given: Any, name: str) -> bool:
    """Return whether a value is of that class of pandas, which need not be installed."""
    classes = type(given).__mro__
    return any(base.__name__ == name and base.__module__.partition(".")[0] == "pandas" for base in classes)
