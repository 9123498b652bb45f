"""Rows of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from regraft.contracts import Raw, Source
from regraft.errors import DataError

_PIECE = 1024


class Parquet(Source):
    """Parquet tables of plain types; extension types are refused, because reading one may run its code."""

    suffixes = (".parquet",)

    def read(self, path: Path) -> Iterator[Raw]:
        """Rows by their number from 1, a thousand at a time."""
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                _refuse_extensions(file.schema_arrow, path)
                for piece in file.iter_batches(batch_size=_PIECE):
                    for values in piece.to_pylist():
                        number += 1
                        yield Raw(values, f"{path}:{number}")
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"is not readable as Parquet: {error}", f"{path}:{number + 1}") from None


def _refuse_extensions(schema: pa.Schema, path: Path) -> None:
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
    if named is not None:
        return str(named.decode("utf-8", "replace"))
    inner = [field.type.field(index) for index in range(field.type.num_fields)]
    return next((name for part in inner if (name := _extension(part))), None)
