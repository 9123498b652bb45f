"""Reading everything once: rows checked, split, hashed and written, holding a few thousand of them at a time."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.columns.files.remote import fetched_ahead
from regraft.contracts import BadCell, Column, Raw, Row, Task, columns_of, ordered_labels
from regraft.data.cell_parsing import ColumnMapping, group_of
from regraft.data.inputs import DataFile, data_files
from regraft.data.rows import Rows, RowWriter
from regraft.data.split_side import Problems, Side, labels_of
from regraft.errors import DataError
from regraft.spec.sections import DataSpec

FORMAT = 2
"""Of the fingerprint and of the Arrow files: another number, another snapshot."""

log = logging.getLogger(__name__)
_NO_ROWS = "holds no rows: add some, or name another file"
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True)
class Gathered:
    """What one reading of the data came to."""

    fingerprint: str
    """SHA-256 over the rows of both sides in their order, the task's key and its columns."""
    labels: tuple[str, ...]
    rows: dict[str, int]
    """Rows per side: train and eval."""
    files: dict[str, Path]
    """`train.arrow` and `eval.arrow`."""
    skipped: dict[str, Any]
    """Rows left out per side, and the first of them in words; empty when none was."""


def gather(task: Task, data: DataSpec, scratch: Path, processor: Callable[[], Any] | None = None) -> Gathered:
    """Read `data` as rows of `task` into two Arrow files in the folder `scratch`.

    `processor` gives the base's tokenizer to a task that packs. DataError holds every row's problem (the first five in
    words) unless bad rows are skipped, or says what is wrong with the whole.
    """
    files = {side: scratch / f"{side}.arrow" for side in ("train", "eval")}
    problems = Problems()
    with ExitStack() as stack:
        writers = [stack.enter_context(RowWriter(path, task.input_columns())) for path in files.values()]
        places = stack.enter_context((scratch / "eval.places").open("w", encoding="utf-8"))
        train, held = Side("train", writers[0]), Side("eval", writers[1], places)
        reading = _Reading(task, data, scratch, problems)
        if isinstance(data.eval, str):
            reading.read(data.train, train)
            reading.read(data.eval, held)
        else:
            reading.read(data.train, train, held, data.eval)
    if data.bad_rows == "fail":
        problems.report()
    _refuse_shared_groups(data, train, held)
    _refuse_empty(data, train, held)
    if data.bad_rows == "skip" and data.labels is None:
        _leave_out_unseen(task, files["eval"], train, held, problems)
        _refuse_empty(data, train, held)
    _refuse_labels(task, data, train, held)
    for column in columns_of(task.input_columns()).values():
        if doubts := column.doubts(train.labels):
            log.warning("%s: %s", data.train, doubts)
    if task.packs:
        for side in (train, held):
            _pack(task, side, files[side.name], processor() if processor else None)
    return Gathered(
        fingerprint=_fingerprint(task, train, held),
        labels=_labels(task, data, train),
        rows={side.name: side.rows for side in (train, held)},
        files={path.name: path for path in files.values()},
        skipped=problems.document(),
    )


def gather_alone(task: Task, data: DataSpec, scratch: Path, processor: Callable[[], Any] | None = None) -> Gathered:
    """Read the rows of `data.train` as one side that has no other, into `scratch`: what a model is evaluated on.

    They are checked as in training; `data.labels` are the labels that the model knows. DataError as in `gather`.
    """
    path, problems = scratch / "eval.arrow", Problems()
    with RowWriter(path, task.input_columns()) as writer:
        side = Side("eval", writer)
        _Reading(task, data, scratch, problems).read(data.train, side)
    if data.bad_rows == "fail" or not side.rows:
        problems.report()
    if not side.rows:
        raise DataError(_NO_ROWS, where=data.train)
    if task.packs:
        _pack(task, side, path, processor() if processor else None)
    return Gathered(
        fingerprint=_fingerprint(task, side),
        labels=data.labels or task.classes() or (),
        rows={side.name: side.rows},
        files={path.name: path},
        skipped=problems.document(),
    )


class _Reading:
    """The way of every row from its file to its side."""

    def __init__(self, task: Task, data: DataSpec, scratch: Path, problems: Problems) -> None:
        self.problems = problems
        self._task, self._data, self._scratch = task, data, scratch
        self._columns = columns_of(task.input_columns())
        self._files = any(column.by_reference for column in self._columns.values())
        self._allowed = None if data.labels is None else frozenset(data.labels)

    def read(self, written: str, side: Side, other: Side | None = None, share: float = 0.0) -> None:
        """Rows of the files `written` to `side`, and a `share` of them to the `other`."""
        for file in data_files(written, self._data.format, self._scratch / "inputs"):
            for raw, row in self._rows(file, side):
                self._place(raw, row, side, other, share)

    def _rows(self, file: DataFile, side: Side) -> Iterator[tuple[Raw, dict[str, Any]]]:
        columns = ColumnMapping(self._task.input_columns(), self._data.columns, file.folder)
        fresh = True
        try:
            for raw in fetched_ahead(file.rows(), columns.remote) if self._files else file.rows():
                if raw.problem:
                    self.problems.add(side.name, raw.problem, raw.where)
                    continue
                if fresh:
                    columns.check(raw, file.name, f"regraft show sources {file.source.key()}", self._data.group)
                    fresh = False
                try:
                    yield raw, columns.row(raw)
                except BadCell as error:
                    self.problems.add(side.name, str(error), raw.where)
        except DataError as error:
            if not self.problems.total or self._data.bad_rows == "skip":
                raise
            self.problems.add(side.name, error.message, error.where)

    def _place(self, raw: Raw, row: dict[str, Any], side: Side, other: Side | None, share: float) -> None:
        try:
            known = _known(row, self._columns)
        except UnicodeEncodeError:
            told = "holds half a character (a lone surrogate), which is no text: repair it"
            self.problems.add(side.name, told, raw.where)
            return
        try:
            group = None if self._data.group is None else group_of(raw, self._data.group)
        except BadCell as error:
            self.problems.add(side.name, str(error), raw.where)
            return
        if other is not None and _unit(known if group is None else group.encode()) < share:
            side = other
        indexed = {**for_check(row, self._columns), "row": side.rows}
        if problem := self._outside(row) or self._task.check(indexed):
            self.problems.add(side.name, problem, raw.where)
            return
        length = self._task.length(indexed)
        side.add(row, length, _printed(known, row, length, self._columns), self._columns, raw.where, group)

    def _outside(self, row: Row) -> str | None:
        """A label that `data.labels` does not list."""
        if self._allowed is None:
            return None
        strange = next((label for label in labels_of(row, self._columns) if label not in self._allowed), None)
        if strange is None:
            return None
        return f"label {strange!r} is written; data.labels allows {', '.join(self._data.labels or ())}"


def for_check(row: Row, columns: Mapping[str, Column]) -> dict[str, Any]:
    """Return the row as `Task.check` gets it: of files that lie elsewhere, as much as the check needs."""
    return {name: column.for_check(row[name]) for name, column in columns.items()}


def _known(row: Row, columns: Mapping[str, Column]) -> bytes:
    """What a row is known by, wherever the files that it names lie; UnicodeEncodeError where it holds no text."""
    return _canonical({name: column.identity(row[name]) for name, column in columns.items()}).encode()


def _printed(known: bytes, row: Row, length: int, columns: Mapping[str, Column]) -> bytes:
    """What the fingerprint holds of a row: the paths too, as a snapshot names files by them."""
    values = (row[name] for name, column in columns.items() if column.by_reference)
    paths = [value if isinstance(value, str) else "" for value in values]
    return known + f"\n{length}\n{paths}\n".encode()


def _unit(identity: bytes) -> float:
    """A number in [0, 1) that depends on the row alone: the same row falls on the same side of any split."""
    return int.from_bytes(hashlib.sha256(identity).digest()[:8]) / 2**64


def _fingerprint(task: Task, *sides: Side) -> str:
    columns = list(task.stored_columns().items())
    what = [FORMAT, task.key(), columns, *(side.hash.hexdigest() for side in sides)]
    return hashlib.sha256(_canonical(what).encode()).hexdigest()


def _labels(task: Task, data: DataSpec, train: Side) -> tuple[str, ...]:
    fixed = task.classes() if data.labels is None else data.labels
    if fixed is not None:
        return fixed
    return _classes(task).in_order(train.labels) if train.labels else ()


def _classes(task: Task) -> Column:
    """Return the kind of the task's column of labels."""
    return next(column for column in columns_of(task.input_columns()).values() if column.classes)


def _pack(task: Task, side: Side, path: Path, processor: Any) -> None:
    """Replace the rows of one side by those that the task makes of them."""
    read = path.with_suffix(".read.arrow")
    path.rename(read)
    rows = Rows(read, task.input_columns())
    with RowWriter(path, task.stored_columns()) as writer:
        side.restart(writer)
        for row in task.pack((rows.row(index) for index in range(len(rows))), processor):
            length = task.length({**row, "row": side.rows})
            side.add(row, length, _canonical(row).encode() + b"\n", {}, str(path), None)
    read.unlink()
    if not side.rows:
        raise DataError(f"the {side.name} rows hold too little to make one row of task {task.key()}: add more")


def _leave_out_unseen(task: Task, path: Path, train: Side, held: Side, problems: Problems) -> None:
    """Write the evaluation rows again without those whose label no training row has."""
    columns = columns_of(task.input_columns())
    unseen = held.labels.keys() - train.labels.keys()
    if not unseen or task.classes() is not None:
        return
    read = path.with_suffix(".read.arrow")
    path.rename(read)
    rows = Rows(read, task.input_columns())
    with RowWriter(path, task.input_columns()) as writer, path.with_suffix(".places").open(encoding="utf-8") as places:
        held.restart(writer)
        for index, (length, line) in enumerate(zip(rows.lengths.tolist(), places, strict=True)):
            row, where = rows.stored(index), line.rstrip("\n")
            row.pop("row")
            strange = next((label for label in labels_of(row, columns) if label in unseen), None)
            if strange is None:
                held.add(row, length, _printed(_known(row, columns), row, length, columns), columns, where, None)
            else:
                problems.add(held.name, f"label {strange!r} is in no training row", where)
    read.unlink()


def _refuse_shared_groups(data: DataSpec, train: Side, held: Side) -> None:
    shared = [group for group in held.groups if group in train.groups]
    if not shared:
        return
    raise DataError(
        f"{len(shared)} values of {data.group!r} stand in the training rows and in the evaluation rows, the first here "
        "and in " + train.groups[shared[0]] + ": what is evaluated on would have been seen. Move each group to one "
        "side, or write a share in data.eval",
        where=held.groups[shared[0]],
    )


def _refuse_empty(data: DataSpec, train: Side, held: Side) -> None:
    if not train.rows and (not held.rows or isinstance(data.eval, str)):
        raise DataError(_NO_ROWS, where=data.train)
    if isinstance(data.eval, str):
        if not held.rows:
            raise DataError(_NO_ROWS, where=data.eval)
    elif not train.rows or not held.rows:
        side = "train on" if not train.rows else "evaluate on"
        what = "rows" if data.group is None else f"rows, split by {data.group},"
        raise DataError(
            f"a share of {data.eval} of {train.rows + held.rows} {what} leaves none to {side}: "
            "write another share, or name a file of rows in data.eval",
            where="data.eval",
        )


def _refuse_labels(task: Task, data: DataSpec, train: Side, held: Side) -> None:
    columns = [column for column in columns_of(task.input_columns()).values() if column.classes]
    if not columns or task.classes() is not None:
        return
    for column in columns:
        if problem := column.lacking(train.labels, train.rows):
            raise DataError(problem, where=data.train)
    if not train.labels:
        raise DataError("no training row has any label: there is nothing to learn", where=data.train)
    unseen = [label for label in ordered_labels(held.labels) if label not in train.labels]
    if unseen and data.labels is None:
        more = f" (and {len(unseen) - 1} more)" if len(unseen) > 1 else ""
        what = "correct it, or add" if isinstance(data.eval, str) else "name a file of rows in data.eval, or add"
        raise DataError(
            f"the label {unseen[0]!r}{more} is in the evaluation rows and in no training row: {what} training rows "
            "of it, or leave it out",
            where=held.first[unseen[0]],
        )
