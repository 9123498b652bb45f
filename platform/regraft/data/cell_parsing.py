"""Mapping of a file's columns to the task's: each is found by name and parsed by its kind, or the row is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from regraft.contracts import BadCell, Column, Kind, Raw, Row, Source, absent, column_of, label_text, quoted
from regraft.contracts.file_ref import EmbeddedFile
from regraft.errors import DataError
from regraft.spec.column_names import Names, column_line, column_names

_SHOWN = 20
_MISSING = object()


class ColumnMapping:
    """Converts the rows of one file to rows of a task."""

    def __init__(self, wanted: Mapping[str, Kind], names: Mapping[str, Names], folder: str | Path) -> None:
        """`names` are the file's column names by the task's; a dot selects a field inside a column.

        `folder` is where relative paths of files begin: a folder on this machine, or an s3:// URL.
        """
        self._columns = [(column, names.get(column, column), column_of(kind)) for column, kind in wanted.items()]
        self._folder = str(folder)
        self._kinds = {column: kind for column, _, kind in self._columns}
        self._joined = [item for item in self._columns if type(item[2]).in_row is not Column.in_row]

    def check(self, raw: Raw, file: str, source: Source, group: str | None = None) -> None:
        """Raise DataError unless the first row of a file has every column.

        `source` is what read the file. `group` is one more column that the file must have, by its own name.
        """
        needed = [names for _, names, column in self._columns if not column.optional]
        wanted = [name for names in needed for name in column_names(names)]
        wanted += [] if group is None else [group]
        missing = [name for name in wanted if find_value(raw.values, name) is _MISSING]
        if not missing:
            return
        has = [str(name)[:40] for name in raw.values]
        near = {name: get_close_matches(name, has, n=1) for name in missing}
        hints = [f"{name!r} (nearest: {near[name][0]!r})" if near[name] else repr(name) for name in missing]
        more = f" and {len(has) - _SHOWN} more" if len(has) > _SHOWN else ""
        read_otherwise = (column.instead(raw.values) for _, names, column in self._columns if not self._has(raw, names))
        advice = next(filter(None, read_otherwise), None)
        advice = advice or source.advice(raw, wanted) or self._advice(raw, wanted, source.advice(raw, ()))
        usual = (
            f"needed are {', '.join(map(repr, wanted))}: write in data.columns what they are called here, "
            f"or in data.format how to read the file (regraft show sources {source.key()})"
        )
        raise DataError(
            f"has no column {', '.join(hints)}; it has {', '.join(map(repr, has[:_SHOWN]))}{more}; {advice or usual}",
            where=file,
        )

    def _advice(self, raw: Raw, wanted: list[str], otherwise: str) -> str:
        """Return the line of data.columns that fits, unless none or several do; `otherwise` is the source's advice."""
        known: dict[str, Names] = {name: names for name, names, _ in self._columns if self._has(raw, names)}
        marked = self._marked(raw, wanted)
        found = {**known, **(self._instructions(raw) or {**marked, **dict(self._fitting(raw, wanted, marked))})}
        if len(found) < len(self._columns):
            line = f"if each label has a column of its own, write them in data.columns: {column_line(marked)}"
            return otherwise or (line if marked else "")
        line = f"write data.columns: {column_line({name: found[name] for name, _, _ in self._columns})}"
        taken = any(repr(names) in otherwise for names in found.values())
        return line if taken or not otherwise else f"{otherwise}; or {line}"

    def _has(self, raw: Raw, names: Names) -> bool:
        return all(find_value(raw.values, name) is not _MISSING for name in column_names(names))

    def _instructions(self, raw: Raw) -> dict[str, Names]:
        """Return the columns of Alpaca's rows for a task that reads what is asked and what is answered."""
        asked = [name for name in ("instruction", "input") if name in raw.values]
        joined = [name for name, _, column in self._columns if column.joins and not column.classes]
        if asked[:1] != ["instruction"] or "output" not in raw.values or len(joined) != len(self._columns):
            return {}
        if len(joined) == 1:
            return {joined[0]: [*asked, "output"]}
        return {joined[0]: asked, joined[1]: "output"} if len(joined) == 2 else {}

    def _marked(self, raw: Raw, wanted: list[str]) -> dict[str, Names]:
        """Return the columns of single labels, which hold 1 or 0, for a missing column of labels."""
        for name, names, column in self._columns:
            if column.joins and column.classes and not self._has(raw, names):
                free = {str(other): value for other, value in raw.values.items() if other not in wanted}
                marks = [other for other, value in free.items() if self._joins(column, {other: value})]
                return {name: marks} if len(marks) > 1 else {}
        return {}

    def _joins(self, column: Column, cells: dict[str, object]) -> bool:
        try:
            column.join(cells, self._folder)
        except BadCell:
            return False
        return True

    def _fitting(self, raw: Raw, wanted: list[str], marked: Mapping[str, Names]) -> Iterator[tuple[str, Names]]:
        """Yield each missing column with the only other column of the file that has a value of its kind.

        `marked` are columns of the task whose columns in the file are known.
        """
        used = {*wanted, *(name for names in marked.values() for name in column_names(names))}
        free = {name: value for name, value in raw.values.items() if name not in used}
        for name, names, column in self._columns:
            if self._has(raw, names) or column.by_reference or name in marked:
                continue
            fits = [str(other) for other, value in free.items() if self._reads(column, value)]
            if len(fits) == 1:
                del free[fits[0]]
                yield name, fits[0]

    def _reads(self, column: Column, value: object) -> bool:
        try:
            column.read_cell(value, self._folder)
        except BadCell:
            return False
        return True

    def ahead(self, raw: Raw) -> list[tuple[Column, str | EmbeddedFile]]:
        """Return the row's files that are worth fetching ahead of `row`, each with its kind of column."""
        return [
            (column, file)
            for _, names, column in self._columns
            if column.by_reference
            and isinstance(names, str)
            and not (column.optional and find_value(raw.values, names) is _MISSING)
            and (file := column.ahead(find_value(raw.values, names), self._folder)) is not None
        ]

    def row(self, raw: Raw) -> dict[str, Any]:
        """Return the task's columns of one row. Raises BadCell."""
        row, values = {}, raw.values
        for wanted, names, column in self._columns:
            if not isinstance(names, str):
                row[wanted] = column.join(self._cells(raw, names), self._folder)
                continue
            value = values[names] if names in values else find_value(values, names)
            if column.optional and (value is _MISSING or absent(value) or value == ""):
                row[wanted] = None
                continue
            if value is _MISSING:
                raise BadCell(f"has no {names!r}")
            try:
                row[wanted] = column.read_cell(value, self._folder)
            except BadCell as error:
                raise BadCell(f"{names}: {error}") from None
        for wanted, names, column in self._joined:
            if row[wanted] is None:
                continue
            try:
                row[wanted] = column.in_row(row[wanted], row, self._kinds)
            except BadCell as error:
                raise BadCell(f"{names} {error}") from None
        return row

    def _cells(self, raw: Raw, names: Names) -> dict[str, object]:
        """Return the cells of several columns by their names; None for one that this row does not have."""
        found = {name: find_value(raw.values, name) for name in column_names(names)}
        if all(value is _MISSING for value in found.values()):
            raise BadCell(f"has no {', '.join(map(repr, found))}")
        return {name: None if value is _MISSING else value for name, value in found.items()}


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


def read_in_part(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Return the kinds of columns of whose remote files a part is fetched to check a row."""
    return {name: column for name, column in columns.items() if type(column).for_check is not Column.for_check}


def for_check(row: Row, columns: Mapping[str, Column]) -> dict[str, Any]:
    """Return the values of these columns as `Task.check` gets them: as much of each remote file as the check needs."""
    return {name: column.for_check(row[name]) for name, column in columns.items() if row[name] is not None}
