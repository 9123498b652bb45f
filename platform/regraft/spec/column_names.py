"""Names in `data.columns`, and messages for those that the task does not have or that are exchanged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from regraft.plugins import unknown

Names = str | Sequence[str]
"""The name of one column in a file, or those of several whose cells make one value."""


def column_names(written: Names) -> tuple[str, ...]:
    """Return the names in a file of one column of the task."""
    return (written,) if isinstance(written, str) else tuple(written)


def misnamed(columns: Mapping[str, Names], known: Collection[str]) -> str | None:
    """Return the message for the first name in `columns` that the task does not have, or None.

    `known` are the task's columns. Where the two sides are exchanged, the message holds the right line.
    """
    strange = [name for name in columns if name not in known]
    if not strange:
        return None
    turned = {found: name for name in strange if isinstance(found := columns[name], str) and found in known}
    if not turned:
        message = unknown("column", strange[0], sorted(known)).removesuffix(".")
        return f"{message}: the task's name comes first, then the file's"
    right: dict[str, Names] = {**{name: columns[name] for name in columns if name in known}, **turned}
    first, name = next(iter(turned.items()))
    return (
        f"{name}: {first} is written the wrong way round, since {first!r} is the task's name: the task's name comes "
        f"first, then the file's. Write {column_line(right)}"
    )


def column_line(columns: Mapping[str, Names]) -> str:
    """Return the value of `data.columns` as a spec has it."""
    return f"{{{', '.join(f'{name}: {_written(names)}' for name, names in columns.items())}}}"


def _written(names: Names) -> str:
    return names if isinstance(names, str) else f"[{', '.join(names)}]"
