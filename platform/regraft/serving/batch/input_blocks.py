"""The rows of a batch prediction: the input, read once in its order and stored as blocks in the work folder."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from regraft.columns.files.remote import fetched_ahead
from regraft.contracts import BadCell, Kind, Raw, Row, Source, column_of, columns_of
from regraft.data.cell_parsing import ColumnMapping
from regraft.data.ingest import BY_NAME, FORMAT
from regraft.data.inputs import DataFile, find_data_files
from regraft.data.observations import Observations
from regraft.data.row_identity import by_name
from regraft.data.rows import Rows, RowWriter
from regraft.data.setting_names import with_names
from regraft.errors import DataError, RequestError
from regraft.serving.batch.work_folder import StoredBlocks, read_work
from regraft.spec.column_names import Names, column_names, misnamed
from regraft.store.objects import ObjectStore

BLOCK_ROWS = 1024
"""Default rows of a block: enough that batches of like lengths hold little padding."""
BLOCK_BYTES = 64 << 20
SEAL = "input.json"
GIVEN, WHERE, PROBLEM = ":given", ":where", ":problem"
"""Columns of a block beside the task's: the file's values (JSON), file:row, and why the row cannot be answered."""
_EXTRA: dict[str, Kind] = {GIVEN: "text", WHERE: "text", PROBLEM: "text"}
_ARGUMENTS = {"data.columns": "columns", "data.format": "format"}
"""Settings of `regraft.data`, with their names in a batch request."""
_RESERVED = frozenset({"row", "answer", "error", "features"})
_MAX_SHOWN = 5
_BYTES = (bytes, bytearray, memoryview)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading the input."""

    input: str
    """File, folder, glob or s3:// URL."""
    wanted: Mapping[str, Kind]
    """The columns that an answer needs."""
    check: Callable[[Row], str | None]
    """Returns the problem of a row, or None (`Task.check`)."""
    columns: Mapping[str, Names]
    """The file's column names by the wanted ones, as the request gives them."""
    trained: Mapping[str, Names]
    """The names in the training files, for columns that the file does not have under the wanted name."""
    source: Source | None
    bad_rows: Literal["fail", "skip"]
    block_rows: int
    by_name: bool = False
    """Whether files count by name and size, as in outputs that the first edition began."""
    remarks: Callable[[Row], Sequence[str]] = lambda row: ()
    """Returns what is to be said about a usable row (`Task.remark`)."""
    observations: Observations = field(default_factory=Observations)
    """What was passed over and remarked while the input was read."""


def source_named(written: object) -> Source:
    """Parse the value of `--format`, a source with its fields. Raises RequestError, which lists what is allowed."""
    try:
        found = Source.parse(written)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RequestError(f"{written!r} is written: {problems}", where="format") from None
    except ValueError as error:
        raise RequestError(str(error), where="format") from None
    assert isinstance(found, Source)
    return found


@dataclass(frozen=True)
class InputRow:
    """One row of the input: the wanted columns, or the reason why it cannot be answered."""

    raw: Raw
    row: dict[str, Any]
    kinds: Mapping[str, Kind]
    problem: str | None = None


def read_rows(reading: ReadOptions, scratch: Path) -> Iterator[InputRow]:
    """Yield every row of the input, in order; rows that cannot be answered have a `problem`.

    Raises DataError when the input itself cannot be read, and RequestError for an unknown column.
    """
    if problem := misnamed(reading.columns, reading.wanted):
        raise RequestError(problem, where="columns")
    try:
        for file in find_data_files(reading.input, reading.source, scratch):
            yield from _read_file(file, reading)
    except DataError as error:
        raise DataError(with_names(error.message, _ARGUMENTS), error.where) from None


def _read_file(file: DataFile, reading: ReadOptions) -> Iterator[InputRow]:
    mappings: dict[tuple[Kind, ...], ColumnMapping] = {}
    names: dict[str, Names] = {}
    kinds: dict[str, Kind] = dict(reading.wanted)
    ahead = ColumnMapping(reading.wanted, {**reading.trained, **reading.columns}, file.folder).ahead
    by_reference = any(column.by_reference for column in columns_of(reading.wanted).values())
    for raw in fetched_ahead(file.rows(), ahead) if by_reference else file.rows():
        if raw.ignored:
            reading.observations.pass_over(raw.ignored, raw.where)
            continue
        if raw.problem:
            yield InputRow(raw, {}, kinds, raw.problem)
            continue
        names = names if mappings else _column_names(reading, raw)
        kinds = _as_written(reading.wanted, names, raw)
        if (key := tuple(kinds.values())) not in mappings:
            mappings[key] = ColumnMapping(kinds, names, file.folder)
            if len(mappings) == 1:
                mappings[key].check(raw, file.name, file.source)
        try:
            row = mappings[key].row(raw)
            row = by_name(row, columns_of(kinds)) if reading.by_name else row
            _canonical(row_identity(row, kinds)).encode()
            checked = {name: column.for_check(row[name]) for name, column in columns_of(kinds).items()}
            problem = reading.check({**checked, "row": 0})
            for text in () if problem else (*([raw.remark] if raw.remark else ()), *reading.remarks(checked)):
                reading.observations.remark(text, raw.where)
            yield InputRow(raw, row, kinds, problem)
        except BadCell as error:
            yield InputRow(raw, {}, kinds, str(error))


def _column_names(reading: ReadOptions, raw: Raw) -> dict[str, Names]:
    """Return the file's column names: as requested, else the wanted ones, else those of the training files."""
    values = raw.values
    names = {
        name: known
        for name, known in reading.trained.items()
        if name not in values and all(one in values for one in column_names(known))
    }
    return {**names, **reading.columns}


def _as_written(wanted: Mapping[str, Kind], names: Mapping[str, Names], raw: Raw) -> dict[str, Kind]:
    """Return the kinds as this row holds them: an input for prediction may hold one text for a list of words."""
    kinds = {}
    for name, kind in wanted.items():
        known = names.get(name, name)
        kinds[name] = column_of(kind).as_written(raw.values.get(known) if isinstance(known, str) else None)
    return kinds


def row_identity(row: Row, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the part of a row that enters a block's hash. Raises BadCell for text with a lone surrogate."""
    known = {name: column_of(kinds[name]).identity(value) for name, value in row.items()}
    if any(_has_surrogate(value) for value in known.values()):
        raise BadCell("holds half a character (a lone surrogate), which is not text: repair it")
    return known


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, Mapping):
        return any(_has_surrogate(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_surrogate(item) for item in value)


class InputBlocks:
    """The blocks of one input in the work folder; they are complete once `input.json` exists."""

    def __init__(self, store: ObjectStore, rows: list[int], hashes: list[str], form: int = FORMAT) -> None:
        self.store = store
        self.form = form
        """The version of the fingerprint that the hashes are of."""
        self.rows = rows
        """Rows of each block."""
        self.hashes = hashes
        self.starts: list[int] = [0]
        """The first row of each block, and at the end the number of rows."""
        for count in rows:
            self.starts.append(self.starts[-1] + count)

    @property
    def total(self) -> int:
        """Rows of all blocks."""
        return self.starts[-1]

    @classmethod
    def existing(cls, store: ObjectStore) -> InputBlocks | None:
        """Return the complete blocks of an earlier command, or None."""
        if not store.exists(SEAL):
            return None
        document = read_work(store, SEAL, StoredBlocks)
        return cls(store, document["rows"], document["hashes"], document.get("format") or BY_NAME)

    @classmethod
    def read(cls, store: ObjectStore, reading: ReadOptions) -> InputBlocks:
        """Store the input as blocks. Raises DataError for rows that cannot be answered, unless they are skipped."""
        made = cls(store, [], [])
        problems: list[InputRow] = []
        count = 0
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            for block in _blocks(reading, Path(folder) / "inputs"):
                bad = [item for item in block if item.problem]
                count += len(bad)
                problems += bad[: max(0, _MAX_SHOWN - len(problems))]
                if reading.bad_rows == "fail" and count:
                    continue
                made._put(block, Path(folder) / "block.arrow")
        if reading.bad_rows == "fail":
            _refuse_bad_rows(problems, count)
        if not made.rows:
            raise DataError("holds no rows: name another file", where=reading.input)
        store.put(SEAL, json.dumps({"rows": made.rows, "hashes": made.hashes, "format": made.form}).encode())
        return made

    def verify(self, reading: ReadOptions) -> None:
        """Raise RequestError unless the input still holds the rows of the blocks."""
        blocks = 0
        start = 0
        reading = replace(reading, by_name=self.form == BY_NAME)
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            for block in _blocks(reading, Path(folder) / "inputs"):
                if blocks == len(self.rows) or block_hash(block) != self.hashes[blocks]:
                    break
                blocks, start = blocks + 1, start + len(block)
            else:
                if blocks == len(self.rows):
                    return
        raise RequestError(
            f"the input has changed from row {start} on since its output was begun: restore it to continue, or pass "
            "--fresh (fresh=True) to start again",
            where=reading.input,
        )

    def block(self, number: int, kinds: Mapping[str, Kind]) -> list[dict[str, Any]]:
        """Return the rows of a block, each with `row`, its position in the input, and the extra columns.

        `kinds` are those of the columns that an answer needs.
        """
        first = self.starts[number]
        path = self.store.local(_key(number))
        if path is not None:
            return _read(path, first, kinds)
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            self.store.fetch(_key(number), Path(folder) / "block.arrow")
            return _read(Path(folder) / "block.arrow", first, kinds)

    def _put(self, block: list[InputRow], path: Path) -> None:
        kinds = block[0].kinds
        with RowWriter(path, {**kinds, **_EXTRA}) as writer:
            for item in block:
                empty: dict[str, Any] = dict.fromkeys(kinds)
                extra = {GIVEN: file_values(item.raw), WHERE: item.raw.where, PROBLEM: item.problem}
                writer.add({**(empty if item.problem else item.row), **extra}, 0)
        self.store.put(_key(len(self.rows)), path)
        self.rows.append(len(block))
        self.starts.append(self.total + len(block))
        self.hashes.append(block_hash(block))


def _key(number: int) -> str:
    return f"input/{number:06d}.arrow"


def _read(path: Path, first: int, kinds: Mapping[str, Kind]) -> list[dict[str, Any]]:
    rows = Rows(path, kinds)
    return [{**rows.row(index), "row": first + index} for index in range(len(rows))]


def _blocks(reading: ReadOptions, scratch: Path) -> Iterator[list[InputRow]]:
    """Yield blocks of at most `block_rows` rows and about BLOCK_BYTES bytes, whose columns have the same kinds."""
    block: list[InputRow] = []
    size = 0
    for item in read_rows(reading, scratch):
        if block and (len(block) == reading.block_rows or size > BLOCK_BYTES or item.kinds != block[0].kinds):
            yield block
            block, size = [], 0
        block.append(item)
        size += sum(len(value) for value in item.row.values() if isinstance(value, bytes | str))
    if block:
        yield block


def block_hash(block: list[InputRow]) -> str:
    """Return the SHA-256 of the rows' contents, independent of where their files are."""
    found = hashlib.sha256()
    for item in block:
        known = None if item.problem else row_identity(item.row, item.kinds)
        found.update(f"{_canonical([known, file_values(item.raw), item.problem])}\n".encode())
    return found.hexdigest()


def file_values(raw: Raw) -> str:
    """Return the file's own columns as JSON, which the output repeats; bytes of images are omitted."""
    kept = {
        f"input_{name}" if name in _RESERVED else str(name): _plain(value)
        for name, value in raw.values.items()
        if not isinstance(value, _BYTES)
    }
    return json.dumps(kept, default=str)


def _plain(value: Any) -> Any:
    """Return a JSON value: null for NaN, and images of the `datasets` library without their bytes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if _has_surrogate(value) else value
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item)
            for key, item in value.items()
            if not isinstance(item, bytes | bytearray | memoryview)
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _refuse_bad_rows(problems: list[InputRow], count: int) -> None:
    if count == 1:
        raise DataError(f"{problems[0].problem}: repair the row, or pass --bad-rows skip", problems[0].raw.where)
    if count:
        lines = "".join(f"\n  - {item.raw.where}: {item.problem}" for item in problems)
        more = f"\n  and {count - len(problems)} more" if count > len(problems) else ""
        raise DataError(f"{count} rows cannot be answered: repair them, or pass --bad-rows skip{lines}{more}")
