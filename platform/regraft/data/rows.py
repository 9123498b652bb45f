"""How rows lie in a file so that millions of them cost no memory: Arrow IPC, written in pieces, mapped to read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from regraft.contracts import Kind
from regraft.data.images import ARROW as IMAGE
from regraft.data.images import fetched, given, kept

PIECE = 4096
"""Rows per Arrow record batch: all but the last have so many, so that a row's place follows from its index."""

LENGTH = "length"

_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "image": IMAGE,
    "mask": IMAGE,
    "label": pa.string(),
    "number": pa.float64(),
    "boxes": pa.list_(pa.list_(pa.float64())),
    "labels": pa.list_(pa.string()),
    "words": pa.list_(pa.string()),
    "tags": pa.list_(pa.string()),
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    "tokens": pa.list_(pa.int32()),
}


class RowWriter:
    """Writes rows to one file; holds one record batch of them at most."""

    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        fields = [(name, _TYPES[kind]) for name, kind in columns.items()]
        self._schema = pa.schema([*fields, (LENGTH, pa.int32())])
        self._images = frozenset(name for name, kind in columns.items() if kind in ("image", "mask"))
        self._waiting: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self.rows = 0

    def add(self, row: Mapping[str, Any], length: int) -> None:
        """Append one row; `length` is its cost by the task's measure."""
        for name, values in self._waiting.items():
            value: Any = length if name == LENGTH else row[name]
            values.append(kept(value) if name in self._images else value)
        self.rows += 1
        if self.rows % PIECE == 0:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting[LENGTH]:
            return
        arrays = [pa.array(self._waiting[field.name], field.type) for field in self._schema]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        for values in self._waiting.values():
            values.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        self._file.close()


class Rows:
    """Rows of a snapshot by index, memory-mapped: what is read lies in the page cache, shared by all processes.

    Pickles as its path, so that it may be handed to another process on this machine.
    """

    def __init__(self, path: Path, label: str | None) -> None:
        """`label` is the column that holds the labels, one or several a row, where the task has one."""
        self._path, self._label = path, label
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._count: int = table.num_rows
        self._lengths = table.column(LENGTH)
        self._images = [field.name for field in table.schema if field.type == IMAGE]
        self._chunks = {name: table.column(name).chunks for name in table.column_names if name != LENGTH}

    def __len__(self) -> int:
        return self._count

    def row(self, index: int) -> dict[str, Any]:
        """The task's columns as plain Python values, and `row`, the index; images in S3 as the bytes of their file."""
        row = self.stored(index)
        for name in self._images:
            row[name] = fetched(row[name])
        return row

    def stored(self, index: int) -> dict[str, Any]:
        """The row as it is kept: images in S3 by their URL."""
        if not 0 <= index < self._count:
            raise IndexError(f"row {index} of {self._count}")
        piece, place = divmod(int(index), PIECE)
        row: dict[str, Any] = {name: chunks[piece][place].as_py() for name, chunks in self._chunks.items()}
        for name in self._images:
            row[name] = given(row[name])
        row["row"] = int(index)
        return row

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Every row's length by the task's measure: (rows,), 4 bytes each."""
        found: NDArray[np.int32] = self._lengths.to_numpy()
        return found

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A column of the kind number, (rows,)."""
        found: NDArray[np.float64] = np.concatenate([chunk.to_numpy() for chunk in self._chunks[column]])
        return found

    @cached_property
    def counts(self) -> dict[str, int]:
        """How often each label stands in the rows, in the order of the labels; empty where the task has none."""
        if self._label is None:
            return {}
        found: dict[str, int] = {}
        for chunk in self._chunks[self._label]:
            single = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            for item in single.value_counts().to_pylist():
                found[item["values"]] = found.get(item["values"], 0) + item["counts"]
        return {label: found[label] for label in in_order(found)}

    def __reduce__(self) -> tuple[type[Rows], tuple[Path, str | None]]:
        return type(self), (self._path, self._label)


def tags_in_order(tags: Mapping[str, Any]) -> tuple[str, ...]:
    """IOB2 tags as the head's outputs have them: O, then the others by the alphabet."""
    return tuple(sorted(tags, key=lambda tag: (tag != "O", tag)))


def in_order(labels: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels as the head's outputs have them: by number when all are whole numbers, else by the alphabet."""
    if all(label.removeprefix("-").isdecimal() and label.isascii() and len(label) < 20 for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
