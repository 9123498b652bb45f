"""Reading everything once: rows checked, split, hashed and written, holding a few thousand of them at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft.contracts import Raw, Task
from regraft.data.cells import Columns, Wrong
from regraft.data.inputs import DataFile, data_files
from regraft.data.rows import RowWriter, in_order, tags_in_order
from regraft.errors import DataError, Unsupported
from regraft.spec import DataSpec

FORMAT = 1
"""Of the fingerprint and of the Arrow files: another number, another snapshot."""

_CLASSES = frozenset({"label", "labels", "tags"})
"""Kinds of column whose values are the classes."""
_SHOWN = 5
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


@dataclass
class _Side:
    """One side of the split, as it grows."""

    writer: RowWriter
    hash: Any = field(default_factory=hashlib.sha256)
    labels: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """Where each label was seen first."""


class _Problems:
    """Rows that cannot be used: the first few in words, the others counted."""

    def __init__(self) -> None:
        self.total, self._shown = 0, list[tuple[str, str]]()

    def add(self, message: str, where: str) -> None:
        self.total += 1
        if len(self._shown) < _SHOWN:
            self._shown.append((message, where))

    def report(self) -> None:
        """DataError if there were any."""
        if self.total == 1:
            raise DataError(*self._shown[0])
        if self.total:
            lines = "".join(f"\n  - {where}: {message}" for message, where in self._shown)
            more = f"\n  and {self.total - _SHOWN} more" if self.total > _SHOWN else ""
            raise DataError(f"{self.total} rows cannot be used: correct them or leave them out{lines}{more}")


def gather(task: Task, data: DataSpec, scratch: Path) -> Gathered:
    """Read `data` as rows of `task` into two Arrow files in the folder `scratch`.

    DataError holds every row's problem (the first five in words), or says what is wrong with the whole.
    """
    files = {f"{name}.arrow": scratch / f"{name}.arrow" for name in ("train", "eval")}
    with ExitStack() as stack:
        train, held = (_Side(stack.enter_context(RowWriter(path, task.columns))) for path in files.values())
        reading = _Reading(task, data, scratch)
        if isinstance(data.eval, str):
            reading.read(data.train, train)
            reading.read(data.eval, held)
        else:
            reading.read(data.train, train, held, data.eval)
        reading.problems.report()
    _refuse_empty(data, train.writer.rows, held.writer.rows)
    labels = tags_in_order(train.labels) if "tags" in task.columns.values() else in_order(train.labels)
    _refuse_labels(task, data, train, held)
    return Gathered(
        fingerprint=_fingerprint(task, train, held),
        labels=labels,
        rows={"train": train.writer.rows, "eval": held.writer.rows},
        files=files,
    )


class _Reading:
    """The way of every row from its file to its side."""

    def __init__(self, task: Task, data: DataSpec, scratch: Path) -> None:
        self.problems = _Problems()
        self._task, self._data, self._scratch = task, data, scratch
        self._images = [name for name, kind in task.columns.items() if kind == "image"]
        self._classes = [name for name, kind in task.columns.items() if kind in _CLASSES]

    def read(self, written: str, side: _Side, other: _Side | None = None, share: float = 0.0) -> None:
        """Rows of the files `written` to `side`, and a `share` of them to the `other`."""
        if self._images and written.startswith("s3://"):
            raise Unsupported(
                f"task {self._task.key()} reads images, which are not read from S3 yet: copy them to this machine",
                where=written,
            )
        for file in data_files(written, self._data.format, self._scratch / "inputs"):
            for raw, row in self._rows(file):
                self._place(raw, row, side, other, share)

    def _rows(self, file: DataFile) -> Iterator[tuple[Raw, dict[str, Any]]]:
        columns = Columns(self._task.columns, self._data.columns, file.path.parent)
        fresh = True
        try:
            for raw in file.rows():
                if fresh:
                    columns.check(raw, file.name, f"regraft show sources {file.source.key()}")
                    fresh = False
                try:
                    yield raw, columns.row(raw)
                except Wrong as error:
                    self.problems.add(str(error), raw.where)
        except DataError as error:
            if not self.problems.total:
                raise
            self.problems.add(error.message, error.where)

    def _place(self, raw: Raw, row: dict[str, Any], side: _Side, other: _Side | None, share: float) -> None:
        try:
            identity = self._identity(row)
        except UnicodeEncodeError:
            self.problems.add("holds half a character (a lone surrogate), which is no text: repair it", raw.where)
            return
        if other is not None and _unit(identity) < share:
            side = other
        indexed = {**row, "row": side.writer.rows}
        if problem := self._task.check(indexed):
            self.problems.add(problem, raw.where)
            return
        length = self._task.length(indexed)
        side.writer.add(row, length)
        side.hash.update(identity + f"\n{length}\n{[row[name] for name in self._images]}\n".encode())
        for name in self._classes:
            for label in [row[name]] if isinstance(row[name], str) else row[name]:
                side.labels[label] += 1
                side.first.setdefault(label, raw.where)

    def _identity(self, row: dict[str, Any]) -> bytes:
        """The row's canonical JSON; an image counts by its name and size in bytes, wherever its folder lies."""
        known = {name: [os.path.basename(row[name]), os.path.getsize(row[name])] for name in self._images}
        return _canonical({**row, **known}).encode()


def _unit(identity: bytes) -> float:
    """A number in [0, 1) that depends on the row alone: the same row falls on the same side of any split."""
    return int.from_bytes(hashlib.sha256(identity).digest()[:8]) / 2**64


def _fingerprint(task: Task, train: _Side, held: _Side) -> str:
    what = [FORMAT, task.key(), list(task.columns.items()), train.hash.hexdigest(), held.hash.hexdigest()]
    return hashlib.sha256(_canonical(what).encode()).hexdigest()


def _refuse_empty(data: DataSpec, train: int, held: int) -> None:
    if not train and (not held or isinstance(data.eval, str)):
        raise DataError(_NO_ROWS, where=data.train)
    if isinstance(data.eval, str):
        if not held:
            raise DataError(_NO_ROWS, where=data.eval)
    elif not train or not held:
        side = "train on" if not train else "evaluate on"
        raise DataError(
            f"a share of {data.eval} of {train + held} rows leaves none to {side}: "
            "write another share, or name a file of rows in data.eval",
            where="data.eval",
        )


def _refuse_labels(task: Task, data: DataSpec, train: _Side, held: _Side) -> None:
    kinds = set(task.columns.values())
    if not kinds & _CLASSES:
        return
    if "label" in kinds and len(train.labels) < 2:
        raise DataError(
            f"all {train.writer.rows} training rows have the label {next(iter(train.labels))!r}: a classifier needs "
            "two; add rows of another label, or say in data.columns which column holds the labels",
            where=data.train,
        )
    if not train.labels:
        raise DataError("no training row has any label: there is nothing to learn", where=data.train)
    unseen = [label for label in in_order(held.labels) if label not in train.labels]
    if unseen:
        more = f" (and {len(unseen) - 1} more)" if len(unseen) > 1 else ""
        what = "correct it, or add" if isinstance(data.eval, str) else "name a file of rows in data.eval, or add"
        raise DataError(
            f"the label {unseen[0]!r}{more} is in the evaluation rows and in no training row: {what} training rows "
            "of it, or leave it out",
            where=held.first[unseen[0]],
        )
