"""How do the answers of many blocks become one file? Each block a part in the work folder, all of them one output."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from regraft.errors import Damaged, DataError
from regraft.serving.batch.input_blocks import GIVEN, PROBLEM, WHERE
from regraft.store.atomic_files import fresh_file, sync_folder, writing
from regraft.store.objects import ObjectStore, open_store

Form = Literal["jsonl", "parquet"]
ROWS_TOGETHER = 1 << 16
"""Rows of a row group of a Parquet file, as far as parts allow."""
_NAME = re.compile(r"parts/(\d{6,})-(\d+)-([0-9a-f]{64})\.(jsonl|parquet)")
"""Block, rows that failed, SHA-256, format."""


@dataclass(frozen=True)
class BlockOutput:
    """The answers of one block."""

    content: bytes
    failed: int
    """Rows that have an error in place of an answer."""


def block_output(
    rows: Sequence[Mapping[str, Any]], results: Mapping[int, Any], form: Form, *, vectors: bool
) -> BlockOutput:
    """The answers of one block as a file of their own; `results` are answers or DataErrors by the row's place."""
    lines = [_line(row, results.get(place), vectors=vectors) for place, row in enumerate(rows)]
    failed = sum(line.get("error") is not None for line in lines)
    return BlockOutput(_jsonl(lines) if form == "jsonl" else _parquet(lines, vectors=vectors), failed)


def _jsonl(lines: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines).encode()


def _parquet(lines: Sequence[Mapping[str, Any]], *, vectors: bool) -> bytes:
    table = _vector_table(lines) if vectors else _answer_table(lines)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _line(row: Mapping[str, Any], result: Any, *, vectors: bool) -> dict[str, Any]:
    problem = f"{row[WHERE]}: {row[PROBLEM]}" if row[PROBLEM] else None
    if isinstance(result, DataError):
        problem = f"{row[WHERE]}: {result.message}"
    if vectors:
        return {"row": row["row"], "features": None if problem else result, "error": problem}
    line: dict[str, Any] = {"row": row["row"], **json.loads(row[GIVEN])}
    return line | ({"error": problem} if problem else {"answer": _finite(result)})


def _finite(value: Any) -> Any:
    """JSON has no NaN; numpy's numbers become Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_finite(item) for item in value]
    return value


def _answer_table(lines: Sequence[Mapping[str, Any]]) -> pa.Table:
    """All columns in the order of their first sight, typed by what they hold; what is of several kinds becomes JSON."""
    columns = {}
    for name in dict.fromkeys(name for line in lines for name in line):
        values = [line.get(name) for line in lines]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array(list(map(_text, values)), pa.string())
    return pa.table(columns)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _vector_table(lines: Sequence[Mapping[str, Any]]) -> pa.Table:
    width = next((len(line["features"]) for line in lines if line["features"] is not None), None)
    features = [None if line["features"] is None else np.asarray(line["features"], np.float32) for line in lines]
    columns = {
        "row": pa.array([line["row"] for line in lines], pa.int64()),
        "features": pa.array(features, pa.null() if width is None else pa.list_(pa.float32(), width)),
    }
    if any(line["error"] for line in lines):
        columns["error"] = pa.array([line["error"] for line in lines], pa.string())
    return pa.table(columns)


class OutputParts:
    """The parts of one output in the work folder; a part's name holds its hash."""

    def __init__(self, store: ObjectStore, form: Form) -> None:
        self.store, self.form = store, form

    def put(self, number: int, part: BlockOutput) -> None:
        """Keep the part of a block; it is there whole or not at all."""
        known = hashlib.sha256(part.content).hexdigest()
        self.store.put(f"parts/{number:06d}-{part.failed}-{known}.{self.form}", part.content)

    def there(self) -> dict[int, str]:
        """Number to key; of a block that was answered twice (its first worker was thought dead) one part counts."""
        found: dict[int, str] = {}
        for stat in self.store.list("parts/"):
            if (name := _NAME.fullmatch(stat.key)) and name[4] == self.form:
                found.setdefault(int(name[1]), stat.key)
        return found

    def content(self, key: str) -> bytes:
        """A part's bytes; Damaged, and the part is gone, when they are not those that were put."""
        content, name = self.store.get(key), _NAME.fullmatch(key)
        if name is None or hashlib.sha256(content).hexdigest() != name[3]:
            self.store.delete([key])
            raise Damaged("a finished part had been changed and was removed: run the command again", f"{key}")
        return content

    def failed(self) -> int:
        """Rows of all parts that have an error in place of an answer."""
        return sum(int(name[2]) for key in self.there().values() if (name := _NAME.fullmatch(key)))

    def contents(self) -> Iterator[bytes]:
        """Every part in the order of the blocks, one at a time."""
        for _, key in sorted(self.there().items()):
            yield self.content(key)


def assemble(parts: OutputParts, out: str, meta: Mapping[str, str], settle: Callable[[int], None]) -> None:
    """Write the output of all parts; it appears whole or not at all, right after `settle` was told its size."""
    if out.startswith("s3://"):
        folder, _, name = out.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="regraft-") as scratch:
            with (Path(scratch) / name).open("wb") as file:
                _write(parts, file, meta)
            settle((Path(scratch) / name).stat().st_size)
            open_store(folder).put(name, Path(scratch) / name)
        return
    path = Path(out)
    with writing(out, "name another output"), fresh_file(path) as (descriptor, temporary):
        with open(os.dup(descriptor), "wb") as file:
            _write(parts, file, meta)
            file.flush()
            os.fsync(file.fileno())
        settle(temporary.stat().st_size)
        os.replace(temporary, path)
        sync_folder(path.parent)


def _write(parts: OutputParts, file: Any, meta: Mapping[str, str]) -> None:
    if parts.form == "jsonl":
        for content in parts.contents():
            file.write(content)
        return
    schema = _common_schema(parts).with_metadata({f"regraft.{name}": value for name, value in meta.items()})
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for content in parts.contents():
            waiting.append(_fitted(pq.read_table(io.BytesIO(content)), schema))
            if sum(table.num_rows for table in waiting) >= ROWS_TOGETHER:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _common_schema(parts: OutputParts) -> pa.Schema:
    """What fits every part: a block may lack a column, hold an empty list where others hold boxes, or whole numbers."""
    fields: dict[str, pa.Field] = {}
    for content in parts.contents():
        for field in pq.read_schema(io.BytesIO(content)):
            fields[field.name] = _common(fields.get(field.name, field), field)
    return pa.schema(list(fields.values()))


def _common(one: pa.Field, other: pa.Field) -> pa.Field:
    if one.equals(other):
        return one
    try:
        schemas = [pa.schema([one]), pa.schema([other])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.field(one.name, pa.string())


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    told = {field.name for field in schema if pa.types.is_string(field.type)}
    rows = [{name: _text(value) if name in told else value for name, value in row.items()} for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=schema)
