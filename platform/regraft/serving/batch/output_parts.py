"""Answers of blocks as parts in the work folder, and the one output file that all parts become."""

from __future__ import annotations

import csv
import hashlib
import io
import json
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
from regraft.store.atomic_files import sync_folder, temporary_file, writing
from regraft.store.objects import ObjectStore, open_store
from regraft.units import finite

Form = Literal["jsonl", "parquet", "csv", "tsv"]
DELIMITERS: Mapping[str, str] = {"csv": ",", "tsv": "\t"}
"""Forms that are tables of text. Their parts are JSON lines: the columns of all parts must be known first."""
ROWS_TOGETHER = 1 << 16
"""Rows of a Parquet row group, as far as the parts allow."""
_NAME = re.compile(r"parts/(\d{6,})-(\d+)-([0-9a-f]{64})\.(jsonl|parquet)")
"""Key of a part: block, rows that failed, SHA-256, format."""


@dataclass(frozen=True)
class BlockOutput:
    """The answers of one block."""

    content: bytes
    failed: int
    """Rows that have an error instead of an answer."""


def block_output(
    rows: Sequence[Mapping[str, Any]], results: Mapping[int, Any], form: Form, *, vectors: bool
) -> BlockOutput:
    """Write the answers of one block as a file; `results` are answers or DataErrors by the row's position."""
    records = [_record(row, results.get(place), vectors=vectors) for place, row in enumerate(rows)]
    failed = sum(record.get("error") is not None for record in records)
    return BlockOutput(_parquet(records, vectors=vectors) if form == "parquet" else _jsonl(records), failed)


def _jsonl(records: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records).encode()


def _parquet(records: Sequence[Mapping[str, Any]], *, vectors: bool) -> bytes:
    table = _vector_table(records) if vectors else _answer_table(records)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _record(row: Mapping[str, Any], result: Any, *, vectors: bool) -> dict[str, Any]:
    problem = f"{row[WHERE]}: {row[PROBLEM]}" if row[PROBLEM] else None
    if isinstance(result, DataError):
        problem = f"{row[WHERE]}: {result.message}"
    if vectors:
        return {"row": row["row"], "features": None if problem else result, "error": problem}
    record: dict[str, Any] = {"row": row["row"], **json.loads(row[GIVEN])}
    return record | ({"error": problem} if problem else {"answer": finite(result)})


def _answer_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a table with all columns in the order of their first appearance; columns of mixed types become JSON."""
    columns = {}
    for name in dict.fromkeys(name for record in records for name in record):
        values = [record.get(name) for record in records]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array(list(map(_text, values)), pa.string())
    return pa.table(columns)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _vector_table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    found = [record["features"] for record in records]
    width = next((len(vector) for vector in found if vector is not None), None)
    features = [None if vector is None else np.asarray(vector, np.float32) for vector in found]
    columns = {
        "row": pa.array([record["row"] for record in records], pa.int64()),
        "features": pa.array(features, pa.null() if width is None else pa.list_(pa.float32(), width)),
    }
    if any(record["error"] for record in records):
        columns["error"] = pa.array([record["error"] for record in records], pa.string())
    return pa.table(columns)


class OutputParts:
    """The parts of one output in the work folder; a part's key contains its hash."""

    def __init__(self, store: ObjectStore, form: Form) -> None:
        self.store, self.form = store, form
        self._suffix = "parquet" if form == "parquet" else "jsonl"

    def put(self, number: int, part: BlockOutput) -> None:
        """Store the part of a block, atomically."""
        known = hashlib.sha256(part.content).hexdigest()
        self.store.put(f"parts/{number:06d}-{part.failed}-{known}.{self._suffix}", part.content)

    def keys(self) -> dict[int, str]:
        """Return each block's key; a block that was answered twice (its first worker was presumed dead) has one."""
        found: dict[int, str] = {}
        for stat in self.store.list("parts/"):
            if (name := _NAME.fullmatch(stat.key)) and name[4] == self._suffix:
                found.setdefault(int(name[1]), stat.key)
        return found

    def content(self, key: str) -> bytes:
        """Return a part's bytes. Raises Damaged, and deletes the part, when its hash is wrong."""
        content, name = self.store.get(key), _NAME.fullmatch(key)
        if name is None or hashlib.sha256(content).hexdigest() != name[3]:
            self.store.delete([key])
            raise Damaged("a finished part had been changed and was removed: run the command again", key)
        return content

    def failed(self) -> int:
        """Return the number of rows in all parts that have an error instead of an answer."""
        return sum(int(name[2]) for key in self.keys().values() if (name := _NAME.fullmatch(key)))

    def contents(self) -> Iterator[bytes]:
        """Yield the bytes of every part in the order of the blocks."""
        for _, key in sorted(self.keys().items()):
            yield self.content(key)


def assemble(parts: OutputParts, out: str, meta: Mapping[str, str], before_publish: Callable[[int], None]) -> None:
    """Write the output of all parts, atomically; `before_publish` gets its size right before the output appears."""
    if out.startswith("s3://"):
        folder, _, name = out.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="regraft-") as scratch:
            with (Path(scratch) / name).open("wb") as file:
                _write(parts, file, meta)
            before_publish((Path(scratch) / name).stat().st_size)
            open_store(folder).put(name, Path(scratch) / name)
        return
    path = Path(out)
    with writing(out, "name another output"), temporary_file(path) as (descriptor, temporary):
        with open(os.dup(descriptor), "wb") as file:
            _write(parts, file, meta)
            file.flush()
            os.fsync(file.fileno())
        before_publish(temporary.stat().st_size)
        os.replace(temporary, path)
        sync_folder(path.parent)


def _write(parts: OutputParts, file: Any, meta: Mapping[str, str]) -> None:
    if parts.form == "jsonl":
        for content in parts.contents():
            file.write(content)
        return
    if parts.form in DELIMITERS:
        _write_table(parts, file)
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


def _write_table(parts: OutputParts, file: Any) -> None:
    """Write a table in UTF-8 (RFC 4180): the input's columns, then the answer's as `answer.label`, then `error`."""
    names = list(dict.fromkeys(name for row in _flat_rows(parts) for name in row))
    names.sort(key=lambda name: (name == "error", name.startswith("answer.")))  # stable: else as they appeared
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, names, delimiter=DELIMITERS[parts.form], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(_flat_rows(parts))
    text.detach()


def _flat_rows(parts: OutputParts) -> Iterator[dict[str, str | None]]:
    """Yield every row with a text for each column; lists and objects as JSON, but the answer's fields as columns."""
    for content in parts.contents():
        for line in content.splitlines():
            record = json.loads(line)
            answer = {f"answer.{name}": value for name, value in (record.pop("answer", None) or {}).items()}
            yield {name: _text(value) for name, value in (record | answer).items()}


def _common_schema(parts: OutputParts) -> pa.Schema:
    """Return a schema that fits every part: blocks may lack a column, or differ in the types of its values."""
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
    texts = {field.name for field in schema if pa.types.is_string(field.type)}
    rows = [
        {name: _text(value) if name in texts else value for name, value in row.items()} for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=schema)
