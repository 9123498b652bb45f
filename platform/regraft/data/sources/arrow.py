"""Source of Arrow IPC: Feather files and streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from regraft.contracts import Raw, Source
from regraft.data.tables import plain_rows, refuse_extensions, schema_features
from regraft.errors import DataError

_FILE_MAGIC = b"ARROW1"


class Arrow(Source):
    """Arrow IPC, as a file (Feather version 2) or as a stream; extension types are refused, as in Parquet."""

    suffixes = (".arrow", ".feather", ".arrows", ".ipc")

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their number from 1; the file is memory-mapped, not read into memory."""
        number = 0
        try:
            for batch, schema in _batches(path):
                if not number:
                    refuse_extensions(schema, path)
                for values in plain_rows(batch, schema_features(schema)):
                    number += 1
                    yield Raw(values, f"{path}:{number}")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a truncated stream is an OSError
            message = " ".join(str(error).split())
            raise DataError(f"is not readable as Arrow IPC: {message}", f"{path}:{number + 1}") from None


def _batches(path: Path) -> Iterator[tuple[pa.RecordBatch, pa.Schema]]:
    with path.open("rb") as file:
        is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    with pa.memory_map(str(path)) as mapped:
        if is_file:
            with pa.ipc.open_file(mapped) as reader:
                for index in range(reader.num_record_batches):
                    yield reader.get_batch(index), reader.schema
        else:
            with pa.ipc.open_stream(mapped) as reader:
                for batch in reader:
                    yield batch, reader.schema
