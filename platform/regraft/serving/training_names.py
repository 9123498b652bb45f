"""Rows that have the column names of a model's training files, as the model's task names the columns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from regraft.data.cell_parsing import find_value
from regraft.errors import RegraftError
from regraft.serving.version_files import Fetched
from regraft.spec.column_names import Names, column_names

log = logging.getLogger(__name__)
_NOTHING = find_value({}, "")
"""The value of a column that a row does not have."""

Join = Callable[[str, Mapping[str, Any]], Any]
"""Returns the value of a column, by its name and the cells that make it."""


def training_names(fetched: Fetched) -> dict[str, Names]:
    """Return the columns' names in a version's training files, by the task's; empty where they are the task's own.

    A version whose spec cannot be read answers under its task's names.
    """
    try:
        data = fetched.spec.get("data")
    except RegraftError as error:
        log.warning("%s: names of its training files are not known: %s", fetched.version, error)
        return {}
    written = data.get("columns") if isinstance(data, Mapping) else None
    return {str(name): names for name, names in (written or {}).items() if _is_names(names)}


def _is_names(names: object) -> bool:
    return isinstance(names, str) or (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names))


def with_task_names(given: Mapping[str, Any], names: Mapping[str, Names], join: Join) -> dict[str, Any]:
    """Return a row with values under the task's names too, where it has those of the training files.

    The task's own names come first. `join` makes the value of a column that several of the files make.
    """
    values = dict(given)
    for name, written in names.items():
        cells = {each: find_value(given, each) for each in column_names(written)}
        if name in given or any(cell is _NOTHING for cell in cells.values()):
            continue
        values[name] = cells[written] if isinstance(written, str) else join(name, cells)
    return values


def names_of_cells(names: Mapping[str, Names]) -> set[str]:
    """Return the names of a row's cells that the training files have; of `objects.bbox` also `objects`."""
    written = {each for found in names.values() for each in column_names(found)}
    return written | {each.partition(".")[0] for each in written}


def shown_columns(wanted: Collection[str], names: Mapping[str, Names]) -> str:
    """Return the columns of a row for a message, with their names in the training files."""
    written = {name: " and ".join(column_names(names.get(name, name))) for name in wanted}
    return ", ".join(
        name + (f" (in the training files {file})" if file != name else "") for name, file in written.items()
    )
