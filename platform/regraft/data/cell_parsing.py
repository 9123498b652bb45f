"""Mapping of a file's columns to the task's: each is found by name and parsed by its kind, or the row is refused."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from regraft.contracts import BadCell, Column, Kind, Raw, absent, column_of, label_text, quoted
from regraft.errors import DataError

_SHOWN = 20
_MISSING = object()


class ColumnMapping:
    """Converts the rows of one file to rows of a task."""

    def __init__(self, wanted: Mapping[str, Kind], names: Mapping[str, str], folder: str | Path) -> None:
        """`names` are the file's column names by the task's; a dot selects a field inside a column.

        `folder` is where relative paths of files begin: a folder on this machine, or an s3:// URL.
        """
        self._columns = [(column, names.get(column, column), column_of(kind)) for column, kind in wanted.items()]
        self._folder = str(folder)

    def check(self, raw: Raw, file: str, manual: str, group: str | None = None) -> None:
        """Raise DataError unless the first row of a file has every column.

        `manual` is the command that documents the file's source. `group` is one more column that the file must have,
        by its own name.
        """
        wanted = [name for _, name, _ in self._columns] + ([] if group is None else [group])
        missing = [name for name in wanted if find_value(raw.values, name) is _MISSING]
        if not missing:
            return
        has = [str(name)[:40] for name in raw.values]
        near = {name: get_close_matches(name, has, n=1) for name in missing}
        hints = [f"{name!r} (nearest: {near[name][0]!r})" if near[name] else repr(name) for name in missing]
        more = f" and {len(has) - _SHOWN} more" if len(has) > _SHOWN else ""
        needed = ", ".join(map(repr, wanted))
        raise DataError(
            f"has no column {', '.join(hints)}; it has {', '.join(map(repr, has[:_SHOWN]))}{more}; "
            f"needed are {needed}: write in data.columns what they are called here, "
            f"or in data.format how to read the file ({manual})",
            where=file,
        )

    def remote(self, raw: Raw) -> list[tuple[Column, str]]:
        """Return the URLs of the row's files that are worth fetching ahead of `row`, each with its kind of column."""
        return [
            (column, url)
            for _, name, column in self._columns
            if column.by_reference and (url := column.remote(find_value(raw.values, name), self._folder)) is not None
        ]

    def row(self, raw: Raw) -> dict[str, Any]:
        """Return the task's columns of one row. Raises BadCell."""
        row = {}
        for wanted, name, column in self._columns:
            value = find_value(raw.values, name)
            if value is _MISSING:
                raise BadCell(f"has no {name!r}")
            try:
                row[wanted] = column.read_cell(value, self._folder)
            except BadCell as error:
                raise BadCell(f"{name}: {error}") from None
        return row


def group_of(raw: Raw, name: str) -> str:
    """Return a row's group: the value of the column that `data.group` names. Raises BadCell when it has none."""
    value = find_value(raw.values, name)
    if value is not _MISSING and not absent(value):
        if not isinstance(value, str | int | float):
            raise BadCell(f"{name}: is {quoted(value)}; a group is a name or a number")
        if group := label_text(value):
            return group
    raise BadCell(f"{name}: is missing; data.group keeps rows together by it")


def find_value(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column or of a field inside one (`translation.en`, `objects.bbox`), else `_MISSING`.

    In a list of structures, a name selects the list of their values.
    """
    if name in values:
        return values[name]
    column, dot, inner = name.partition(".")
    if not dot or column not in values:
        return _MISSING
    value = values[column]
    if isinstance(value, Mapping):
        return find_value(value, inner)
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        several = [find_value(item, inner) for item in value]
        return _MISSING if any(item is _MISSING for item in several) else several
    return _MISSING
