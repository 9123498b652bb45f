"""Rows in Arrow IPC files: written in batches and memory-mapped to read, so that millions of them use no memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from regraft.contracts import Column, Kind, columns_of
from regraft.contracts.file_ref import FileRef

BATCH_ROWS = 4096
"""Rows in every Arrow record batch but the last, so that a row's position follows from its index."""

LENGTH = "length"


class RowWriter:
    """Writes rows to one file; at most one record batch of them is in memory."""

    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        kinds = columns_of(columns)
        self._columns = [(name, _conversion(column)) for name, column in kinds.items()]
        fields = [(name, column.arrow) for name, column in kinds.items()]
        self._schema = pa.schema([*fields, (LENGTH, pa.int32())])
        self._buffer: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self.rows = 0

    def add(self, row: Mapping[str, Any], length: int) -> None:
        """Append one row; `length` is its cost by the task's measure."""
        for name, stored in self._columns:
            value = row[name]
            self._buffer[name].append(value if stored is None or value is None else stored(value))
        self._buffer[LENGTH].append(length)
        self.rows += 1
        if self.rows % BATCH_ROWS == 0:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer[LENGTH]:
            return
        arrays = [pa.array(self._buffer[field.name], field.type) for field in self._schema]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        for values in self._buffer.values():
            values.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        self._file.close()


def _conversion(column: Column) -> Callable[[Any], Any] | None:
    """Return the function that converts values to the Arrow type, or None where they need none."""
    return None if type(column).stored is Column.stored else column.stored


class Rows:
    """Rows of a snapshot by index, memory-mapped: pages that were read are shared by all processes.

    Pickled by its path, so that another process on this machine can open it.
    """

    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        """`columns` are the kinds of the file's columns by name."""
        self._path, self._kinds = path, dict(columns)
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._count: int = table.num_rows
        self._lengths = table.column(LENGTH)
        self._columns = columns_of({name: kind for name, kind in columns.items() if name in table.column_names})
        self._chunks = {name: table.column(name).chunks for name in table.column_names if name != LENGTH}
        self._known: dict[str, FileRef] = {}

    def __len__(self) -> int:
        return self._count

    def row(self, index: int) -> dict[str, Any]:
        """Return the task's columns as plain values, with bytes in place of S3 URLs, and `row`, the index."""
        row = self.stored(index)
        for name, column in self._columns.items():
            if (value := row[name]) is not None:
                row[name] = column.fetched(value)
        return row

    def stored(self, index: int) -> dict[str, Any]:
        """Return the row as it is stored: images in S3 by their URL."""
        if not 0 <= index < self._count:
            raise IndexError(f"row {index} of {self._count}")
        batch, position = divmod(int(index), BATCH_ROWS)
        row: dict[str, Any] = {name: chunks[batch][position].as_py() for name, chunks in self._chunks.items()}
        for name, column in self._columns.items():
            if (value := row[name]) is not None:
                restored = column.restored(value)
                row[name] = self._known.get(restored, restored) if isinstance(restored, FileRef) else restored
        row["row"] = int(index)
        return row

    def know(self, file: FileRef) -> None:
        """Let every later reading of the file at this place have this content; other content is then an error."""
        self._known[str(file)] = file

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Length of every row by the task's measure, (rows,)."""
        found: NDArray[np.int32] = self._lengths.to_numpy()
        return found

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column of the kind `number`, (rows,); of a column of lists, how many items each row has."""
        found: NDArray[np.float64] = np.concatenate([_as_numbers(chunk) for chunk in self._chunks[column]])
        return found

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of occurrences of each label, in the order of the labels; empty when the task has none."""
        name, column = next(((n, c) for n, c in self._columns.items() if c.counted), (None, None))
        if name is None or column is None:
            return {}
        found: dict[str, int] = {}
        for chunk in self._chunks[name]:
            single = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            for item in single.value_counts().to_pylist():
                found[item["values"]] = found.get(item["values"], 0) + item["counts"]
        return {label: found[label] for label in column.in_order(found)}

    def by_label(self) -> dict[str, NDArray[np.int64]]:
        """Return the indices of each label's rows, in the order of the labels, where the task counts one label a row.

        Rows without a label are left out.
        """
        name = next(name for name, column in self._columns.items() if column.counted)
        coded = pa.chunked_array(self._chunks[name]).combine_chunks().dictionary_encode()
        numbers = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        code = {label: number for number, label in enumerate(coded.dictionary.to_pylist())}
        order = np.argsort(numbers, kind="stable")
        starts = np.searchsorted(numbers[order], np.arange(len(code) + 1))
        return {label: order[starts[code[label]] : starts[code[label] + 1]] for label in self.counts}

    def labelled(self, label: str) -> NDArray[np.bool_]:
        """Return which rows have this label, (rows,), where the task counts one label a row."""
        name = next(name for name, column in self._columns.items() if column.counted)
        equal = [compute.equal(chunk, label).to_numpy(zero_copy_only=False) for chunk in self._chunks[name]]
        return np.concatenate(equal).astype(bool)

    def __reduce__(self) -> tuple[type[Rows], tuple[Path, dict[str, Kind]]]:
        return type(self), (self._path, self._kinds)


def _as_numbers(chunk: pa.Array) -> NDArray[np.float64]:
    if not pa.types.is_list(chunk.type):
        return np.asarray(chunk.to_numpy())
    lengths = compute.list_value_length(chunk).fill_null(0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.float64)
