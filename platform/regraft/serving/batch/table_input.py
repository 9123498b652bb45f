"""Tables that a Python caller gives as the input of a batch prediction: written to a file, which is read as others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from regraft.errors import RequestError
from regraft.serving.python_rows import as_mapping, table_of
from regraft.units import with_article


@contextmanager
def as_input(given: Any) -> Iterator[str]:
    """Yield the name of an input: the path that is given, or a temporary file with the rows of a table.

    A table is one of pandas, Arrow, Polars or `datasets`, or a list of mappings. Raises RequestError for others.
    """
    if isinstance(given, str | os.PathLike):
        yield os.fspath(given)
        return
    try:
        table = _arrow_table(given)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RequestError(f"the table's values do not fit a file: {error}", where="input") from None
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(table, path)
        yield str(path)


def _arrow_table(given: Any) -> pa.Table:
    """Return a table, or a list of mappings, as one of Arrow's."""
    rows = table_of(given)
    if rows is None and isinstance(given, list | tuple):
        rows = given
    mappings = None if rows is None else [as_mapping(row) for row in rows]
    if not mappings or any(row is None for row in mappings):
        kind = with_article(type(given).__name__)
        raise RequestError(
            f"{kind} is given; allowed is a path, a URL, a table (pandas, pyarrow) or a list of mappings",
            "input",
        )
    names = list(dict.fromkeys(name for row in mappings for name in row or {}))
    return pa.table({name: [(row or {}).get(name) for row in mappings] for name in names})
