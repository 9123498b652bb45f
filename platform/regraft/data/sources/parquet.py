"""Source of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from regraft.contracts import Raw, Source
from regraft.data.tables import BATCH_ROWS, plain_rows, refuse_extensions, schema_features
from regraft.errors import DataError


class Parquet(Source):
    """Parquet tables of plain types; extension types are refused, because reading one may run its code.

    Images are paths, or structures of `bytes` and `path` as the `datasets` library writes them; its class numbers
    become names.
    """

    suffixes = (".parquet",)

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their number from 1, with `BATCH_ROWS` of them in memory."""
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                refuse_extensions(file.schema_arrow, path)
                features = schema_features(file.schema_arrow)
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    for values in plain_rows(batch, features):
                        number += 1
                        yield Raw(values, f"{path}:{number}")
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"is not readable as Parquet: {error}", f"{path}:{number + 1}") from None
