"""Which rows are to be answered? The input, read once in its order and put into the work folder in blocks."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from regraft.contracts import BadCell, Kind, Raw, Row, Source, column_of, columns_of
from regraft.data.cell_parsing import ColumnMapping
from regraft.data.inputs import DataFile, data_files
from regraft.data.rows import Rows, RowWriter
from regraft.errors import DataError, RequestError
from regraft.plugins import unknown
from regraft.store.objects import ObjectStore

BLOCK_ROWS = 1024
"""Rows of a block unless asked otherwise: among so many, batches of like lengths hold little padding."""
BLOCK_BYTES = 64 << 20
SEAL = "input.json"
GIVEN, WHERE, PROBLEM = ":given", ":where", ":problem"
"""Columns of a block beside the task's: what the file said (JSON), file:row, and why the row cannot be answered."""
_EXTRA: dict[str, Kind] = {GIVEN: "text", WHERE: "text", PROBLEM: "text"}
_OWN = frozenset({"row", "answer", "error", "features"})
_SHOWN = 5
_BYTES = (bytes, bytearray, memoryview)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True)
class ReadOptions:
    """How the input is read."""

    input: str
    """File, folder, glob or s3:// URL."""
    wanted: Mapping[str, Kind]
    """The columns that an answer needs."""
    check: Callable[[Row], str | None]
    """What is wrong with a row, or None (`Task.check`)."""
    columns: Mapping[str, str]
    """The file's names of columns, by the wanted ones."""
    trained: Mapping[str, str]
    """The names in the files of the training, tried where a file has no column of the wanted name."""
    form: Source | None
    bad_rows: Literal["fail", "skip"]
    block_rows: int


def source_named(written: object) -> Source:
    """The source that `--format` names, with its fields; RequestError says what is allowed."""
    try:
        found = Source.parse(written)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RequestError(f"{written!r} is written: {told}", where="format") from None
    except ValueError as error:
        raise RequestError(str(error), where="format") from None
    assert isinstance(found, Source)
    return found


@dataclass(frozen=True)
class InputRow:
    """One row of the input: the wanted columns, or what is wrong with it."""

    raw: Raw
    row: dict[str, Any]
    kinds: Mapping[str, Kind]
    problem: str | None = None


def taken(reading: ReadOptions, scratch: Path) -> Iterator[InputRow]:
    """Every row of the input, in order; what cannot be answered has a `problem`. DataError ends the input."""
    for name in reading.columns:
        if name not in reading.wanted:
            raise RequestError(unknown("column", name, sorted(reading.wanted)), where="columns")
    try:
        for file in data_files(reading.input, reading.form, scratch):
            yield from _of_file(file, reading)
    except DataError as error:
        # The spec's names for what are options here.
        told = error.message.replace("data.columns", "columns").replace("data.format", "format")
        raise DataError(told, error.where) from None


def _of_file(file: DataFile, reading: ReadOptions) -> Iterator[InputRow]:
    forms: dict[tuple[Kind, ...], ColumnMapping] = {}
    names: dict[str, str] = {}
    kinds: dict[str, Kind] = dict(reading.wanted)
    for raw in file.rows():
        if raw.problem:
            yield InputRow(raw, {}, kinds, raw.problem)
            continue
        names = names if forms else _names(reading, raw)
        kinds = _as_written(reading.wanted, names, raw)
        if (form := tuple(kinds.values())) not in forms:
            forms[form] = ColumnMapping(kinds, names, file.folder)
            if len(forms) == 1:
                forms[form].check(raw, file.name, f"regraft show sources {file.source.key()}")
        try:
            row = forms[form].row(raw)
            _canonical(row_identity(row, kinds)).encode()
            checked = {name: column.for_check(row[name]) for name, column in columns_of(kinds).items()}
            yield InputRow(raw, row, kinds, reading.check({**checked, "row": 0}))
        except BadCell as error:
            yield InputRow(raw, {}, kinds, str(error))


def _names(reading: ReadOptions, raw: Raw) -> dict[str, str]:
    """The file's names of columns: as asked, else the wanted ones, else those of the training."""
    names = {name: told for name, told in reading.trained.items() if name not in raw.values and told in raw.values}
    return {**names, **reading.columns}


def _as_written(wanted: Mapping[str, Kind], names: Mapping[str, str], raw: Raw) -> dict[str, Kind]:
    """Return the kinds as this row holds them: an input for prediction may hold one text for a list of words."""
    values = raw.values
    return {name: column_of(kind).as_written(values.get(names.get(name, name))) for name, kind in wanted.items()}


def row_identity(row: Row, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """What the hash of a block knows a row by; BadCell for text that is no text."""
    known = {name: column_of(kinds[name]).identity(value) for name, value in row.items()}
    if any(_halved(value) for value in known.values()):
        raise BadCell("holds half a character (a lone surrogate), which is no text: repair it")
    return known


def _halved(value: Any) -> bool:
    if isinstance(value, str):
        return not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, Mapping):
        return any(_halved(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_halved(item) for item in value)


class InputBlocks:
    """The blocks of one input in the work folder; sealed by `input.json`, without which none of them counts."""

    def __init__(self, store: ObjectStore, rows: list[int], hashes: list[str]) -> None:
        self.store = store
        self.rows = rows
        """Rows of each block."""
        self.hashes = hashes
        self.starts: list[int] = [0]
        """The first row of each block, and how many rows there are."""
        for many in rows:
            self.starts.append(self.starts[-1] + many)

    @property
    def total(self) -> int:
        """Rows of all blocks."""
        return self.starts[-1]

    @classmethod
    def sealed(cls, store: ObjectStore) -> InputBlocks | None:
        """The blocks that a run before this one put there, or None."""
        if not store.exists(SEAL):
            return None
        document = json.loads(store.get(SEAL))
        return cls(store, document["rows"], document["hashes"])

    @classmethod
    def read(cls, store: ObjectStore, reading: ReadOptions) -> InputBlocks:
        """Put the input into the work folder; DataError names rows that cannot be answered, unless they are skipped."""
        made = cls(store, [], [])
        problems: list[InputRow] = []
        count = 0
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            for block in _blocks(reading, Path(folder) / "inputs"):
                bad = [item for item in block if item.problem]
                count += len(bad)
                problems += bad[: max(0, _SHOWN - len(problems))]
                if reading.bad_rows == "fail" and count:
                    continue
                made._put(block, Path(folder) / "block.arrow")
        if reading.bad_rows == "fail":
            _report(problems, count)
        if not made.rows:
            raise DataError("holds no rows: name another file", where=reading.input)
        store.put(SEAL, json.dumps({"rows": made.rows, "hashes": made.hashes}).encode())
        return made

    def verify(self, reading: ReadOptions) -> None:
        """RequestError unless the input still holds the rows that the blocks were made of."""
        blocks = 0
        start = 0
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            for block in _blocks(reading, Path(folder) / "inputs"):
                if blocks == len(self.rows) or block_hash(block) != self.hashes[blocks]:
                    break
                blocks, start = blocks + 1, start + len(block)
            else:
                if blocks == len(self.rows):
                    return
        raise RequestError(
            f"the input has changed from row {start} on since its output was begun: give it back as it was to go on, "
            "or pass --fresh (fresh=True) to begin anew",
            where=reading.input,
        )

    def block(self, number: int, kinds: Mapping[str, Kind]) -> list[dict[str, Any]]:
        """The rows of a block, each with `row`, its place in the whole input, and the extra columns.

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
                extra = {GIVEN: given(item.raw), WHERE: item.raw.where, PROBLEM: item.problem}
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
    """Rows in blocks of at most block_rows and about BLOCK_BYTES, all of one kind of columns."""
    block: list[InputRow] = []
    size = 0
    for item in taken(reading, scratch):
        if block and (len(block) == reading.block_rows or size > BLOCK_BYTES or item.kinds != block[0].kinds):
            yield block
            block, size = [], 0
        block.append(item)
        size += sum(len(value) for value in item.row.values() if isinstance(value, bytes | str))
    if block:
        yield block


def block_hash(block: list[InputRow]) -> str:
    """SHA-256 over what the rows hold, wherever their files lie."""
    found = hashlib.sha256()
    for item in block:
        known = None if item.problem else row_identity(item.row, item.kinds)
        found.update(f"{_canonical([known, given(item.raw), item.problem])}\n".encode())
    return found.hexdigest()


def given(raw: Raw) -> str:
    """The file's own columns as JSON, which stand beside the answer; bytes of images are left out."""
    kept = {
        f"input_{name}" if name in _OWN else str(name): _plain(value)
        for name, value in raw.values.items()
        if not isinstance(value, _BYTES)
    }
    return json.dumps(kept, default=str)


def _plain(value: Any) -> Any:
    """JSON has no NaN, and an image of the `datasets` library holds its bytes beside its path."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if _halved(value) else value
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item)
            for key, item in value.items()
            if not isinstance(item, bytes | bytearray | memoryview)
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _report(problems: list[InputRow], count: int) -> None:
    if count == 1:
        raise DataError(f"{problems[0].problem}: repair the row, or pass --bad-rows skip", problems[0].raw.where)
    if count:
        lines = "".join(f"\n  - {item.raw.where}: {item.problem}" for item in problems)
        more = f"\n  and {count - len(problems)} more" if count > len(problems) else ""
        raise DataError(f"{count} rows cannot be answered: repair them, or pass --bad-rows skip{lines}{more}")
