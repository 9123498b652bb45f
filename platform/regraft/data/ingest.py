"""Ingestion of rows: read once, checked, split, hashed and written, with a few thousand of them in memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.columns.files.remote import fetched_ahead
from regraft.contracts import BadCell, Column, Raw, Row, Task, columns_of
from regraft.data.base_reading import BaseReading
from regraft.data.cell_parsing import ColumnMapping, for_check, group_of, read_in_part
from regraft.data.inputs import DataFile, find_data_files
from regraft.data.observations import Observations, remarkers
from regraft.data.overlap import compared_columns, content_key
from regraft.data.rare_labels import Candidate, RareLabels
from regraft.data.row_identity import by_name, canonical, files_of, fingerprint_part, row_identity, unit_hash
from regraft.data.rows import Rows, RowWriter
from regraft.data.side_checks import (
    NO_ROWS,
    count_overlaps,
    refuse_empty,
    refuse_labels,
    refuse_new_labels,
    refuse_shared_groups,
)
from regraft.data.side_choice import SideChoice
from regraft.data.split_side import BadRows, SplitRow, SplitSide, row_labels
from regraft.errors import DataError
from regraft.spec.sections import DataSpec

FORMAT = 3
"""Version of the fingerprint and of the Arrow files: another number gives another snapshot."""
BY_NAME = 2
"""The version before: files count by name and size. Rows without files have the same fingerprint in both."""

TARGET_WEIGHT = 10
"""Training rows that one row of `data.target_labels` counts as."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestedRows:
    """The result of reading the data once: Arrow files and facts about their rows."""

    fingerprint: str
    """SHA-256 over the rows of all sides in their order, the task's key and its columns."""
    labels: tuple[str, ...]
    rows: dict[str, int]
    """Number of rows of each side: train, eval, and test where there are test rows."""
    files: dict[str, Path]
    """`train.arrow`, `eval.arrow`, and `test.arrow` where there are test rows."""
    skipped: dict[str, Any]
    """Number of rows left out of each side, and messages of the first ones; empty when there are none."""
    format: int
    """FORMAT, or BY_NAME."""
    notes: tuple[str, ...] = ()
    """Sentences about what was passed over, and about rows that are usable but doubtful."""
    overlap: int = 0
    """Number of evaluation rows whose inputs are those of a training row."""
    test_overlap: dict[str, int] | None = None
    """Number of test rows whose inputs are those of a row of train, and of eval; None without test rows."""
    groups: Any = None
    """The key of each training row's group, (rows,); None where no rows belong together."""


def ingest(
    task: Task,
    data: DataSpec,
    scratch: Path,
    base: BaseReading | None = None,
    *,
    form: int = FORMAT,
) -> IngestedRows:
    """Read `data` as rows of `task` into an Arrow file for each side in the folder `scratch`.

    A row that `base` cannot read is a bad row. `form` is the version of the fingerprint. Raises DataError for bad rows,
    unless they are skipped. It also does for data that cannot be trained on: no rows, or labels that no training row
    has.
    """
    reader = _SplitReader(task, data, scratch, base, form=form)
    bad_rows = reader.bad_rows
    with ExitStack() as stack:
        train, *held_out = sides = [_open_side(stack, task, scratch / f"{name}.arrow") for name in _sides(data)]
        moved, sentence = reader.read_sides(train, held_out)
        target = None if data.target is None else reader.read_target(stack, data.target)
    if data.bad_rows == "fail":
        bad_rows.report()
    for side in held_out:
        if indices := moved.get(side.name):
            _rewrite(task, scratch, side, _without(indices))
    refuse_shared_groups(data, sides)
    refuse_empty(data, sides, reader.smaller_rows)
    if data.bad_rows == "skip" and data.labels is None:
        for side in held_out:
            _drop_unseen_labels(task, scratch, train=train, held_out=side, bad_rows=bad_rows)
        refuse_empty(data, sides)
    refuse_labels(task, data, sides)
    labels, overlaps = _labels(task, data, train), count_overlaps(sides)  # before packing, after which rows are others
    _warn_of_doubts(data, columns_of(task.input_columns()), train)
    if target is not None:
        sides.append(target)
    for side in sides if task.packs else ():
        _pack(task, side, scratch / f"{side.name}.arrow", base.processor() if base else None)
    return IngestedRows(
        fingerprint=_fingerprint(task, reader.form, *sides),
        format=reader.form,
        labels=labels,
        rows={side.name: side.rows for side in sides},
        files={f"{side.name}.arrow": scratch / f"{side.name}.arrow" for side in sides},
        skipped=bad_rows.document(),
        notes=(*reader.observations.lines(), *filter(None, [sentence]), *overlaps.notes),
        overlap=overlaps.evaluation,
        test_overlap=overlaps.test,
        groups=None if task.packs or (data.group or data.target_labels) is None else train.row_groups,
    )


def _without(indices: frozenset[int]) -> Callable[[Row, int, str], bool]:
    """Return a filter of rows that drops those with these indices."""
    return lambda row, index, where: index not in indices


def _sides(data: DataSpec) -> tuple[str, ...]:
    return ("train", "eval") if data.test is None else ("train", "eval", "test")


def _open_side(stack: ExitStack, task: Task, path: Path) -> SplitSide:
    """Return a side that is written to `path`; the positions of held-out rows are written beside it."""
    writer = stack.enter_context(RowWriter(path, task.input_columns()))
    name = path.stem
    positions = None if name == "train" else path.with_suffix(".positions").open("w", encoding="utf-8")
    if positions is not None:
        stack.enter_context(positions)
    return SplitSide(name, writer, columns_of(task.input_columns()), positions)


def _warn_of_doubts(data: DataSpec, columns: Mapping[str, Column], train: SplitSide) -> None:
    for column in columns.values():
        if doubts := column.doubts(train.labels):
            log.warning("%s: %s", data.train, doubts)


def ingest_for_evaluation(task: Task, data: DataSpec, scratch: Path, base: BaseReading | None = None) -> IngestedRows:
    """Read the rows of `data.train` into the folder `scratch` to evaluate a model on, without a split.

    Rows are checked as in training; `data.labels` are the labels that the model knows. Raises DataError as `ingest`
    does.
    """
    path, reader = scratch / "eval.arrow", _SplitReader(task, data, scratch, base)
    bad_rows = reader.bad_rows
    with RowWriter(path, task.input_columns()) as writer:
        side = SplitSide("eval", writer, columns_of(task.input_columns()))
        reader.read(data.train, SideChoice(side))
    if data.bad_rows == "fail" or not side.rows:
        bad_rows.report()
    if not side.rows:
        raise DataError(NO_ROWS, where=data.train)
    if task.packs:
        _pack(task, side, path, base.processor() if base else None)
    return IngestedRows(
        fingerprint=_fingerprint(task, reader.form, side),
        format=reader.form,
        labels=data.labels or task.classes() or (),
        rows={side.name: side.rows},
        files={path.name: path},
        skipped=bad_rows.document(),
        notes=reader.observations.lines(),
    )


class _SplitReader:
    """Reads the rows of files, checks each and appends it to its side of the split."""

    labelled = True
    """Whether rows have what the model is to predict."""

    def __init__(
        self, task: Task, data: DataSpec, scratch: Path, base: BaseReading | None = None, *, form: int = FORMAT
    ) -> None:
        self.bad_rows = BadRows()
        self._unread = base.problem if base else None
        self._task, self._data, self._scratch = task, data, scratch
        targets = frozenset[str]() if self.labelled else task.target_columns()
        self._base = base
        self._kinds = {name: kind for name, kind in task.input_columns().items() if name not in targets}
        self._columns = columns_of(self._kinds)
        self._compared = compared_columns(task)
        self._files = files_of(self._columns)
        self._in_part = read_in_part(self._columns)
        self.form = BY_NAME if form == BY_NAME or not self._files else FORMAT
        self._allowed = None if data.labels is None else frozenset(data.labels)
        self.observations = Observations()
        self._remarkers = remarkers(task, self._columns)
        self.smaller_rows = ""
        """What to write so that a file has more rows, where its source has a setting for that."""

    def read(self, written: str, split: SideChoice) -> None:
        """Read the rows of the files that `written` names into the split."""
        for file in find_data_files(written, self._data.format, self._scratch / "inputs"):
            self.smaller_rows = file.source.smaller_rows()
            for raw, row in self._rows(file, split.side):
                self._assign(raw, row, split)

    def read_sides(self, train: SplitSide, held_out: Sequence[SplitSide]) -> tuple[Mapping[str, frozenset[int]], str]:
        """Read all sides. Returns indices of rows that moved to training, by side, and a sentence about them."""
        data = self._data
        written = [(side, getattr(data, side.name)) for side in held_out]
        shares = tuple((side, share) for side, share in written if isinstance(share, float))
        fixed = data.labels is not None or data.group is not None or self._task.classes() is not None
        rare = RareLabels(self._columns) if shares and not fixed else None
        self.read(data.train, SideChoice(train, shares, rare))
        for side, named in written:
            if isinstance(named, str):
                self.read(named, SideChoice(side))
        moved = ({}, "") if rare is None or not train.rows else rare.move(train)
        if data.target_labels is not None:
            known = frozenset(train.labels)
            self._beside(_SplitReader).read(data.target_labels, SideChoice(train, times=TARGET_WEIGHT))
            refuse_new_labels(self._task, data, train, known)
        return moved

    def _beside(self, kind: type[_SplitReader]) -> _SplitReader:
        """Return a reader of rows of another domain, which have no groups; bad rows are counted together."""
        data = self._data.model_copy(update={"group": None})
        reader = kind(self._task, data, self._scratch, self._base, form=self.form)
        reader.bad_rows, reader.observations = self.bad_rows, self.observations
        return reader

    def read_target(self, stack: ExitStack, written: str) -> SplitSide:
        """Return the rows of another domain as a side of their own; columns to predict, and groups, are not read."""
        reader = self._beside(_UnlabelledReader)
        writer = stack.enter_context(RowWriter(self._scratch / "target.arrow", reader._kinds))
        side = SplitSide("target", writer, reader._columns)
        reader.read(written, SideChoice(side))
        if not side.rows and not self.bad_rows.total:
            raise DataError(NO_ROWS, where=written)
        return side

    def _rows(self, file: DataFile, side: SplitSide) -> Iterator[tuple[Raw, dict[str, Any]]]:
        """Yield each row of a file as the source and as the task have it; bad rows are counted to `side`."""
        columns = ColumnMapping(self._kinds, self._data.columns, file.folder)
        first, named = True, self._files and self.form == BY_NAME
        try:
            for raw in fetched_ahead(file.rows(), columns.ahead) if self._files else file.rows():
                if raw.ignored:
                    self.observations.pass_over(raw.ignored, raw.where)
                    continue
                if raw.problem:
                    self.bad_rows.add(side.name, raw.problem, raw.where)
                    continue
                if first:
                    columns.check(raw, file.name, file.source, self._data.group)
                    first = False
                try:
                    row = columns.row(raw)
                    row = self._task.convert(row) if self.labelled else row
                    yield raw, by_name(row, self._columns) if named else row
                except BadCell as error:
                    self.bad_rows.add(side.name, str(error), raw.where)
        except DataError as error:
            if not self.bad_rows.total or self._data.bad_rows == "skip":
                raise
            self.bad_rows.add(side.name, error.message, error.where)

    def _assign(self, raw: Raw, row: dict[str, Any], split: SideChoice) -> None:
        """Append a row to its side, or count it as a bad row."""
        side = split.side
        try:
            identity = row_identity(row, self._columns)
        except UnicodeEncodeError:
            message = "holds half a character (a lone surrogate), which is not text: repair it"
            self.bad_rows.add(side.name, message, raw.where)
            return
        try:
            group = None if self._data.group is None else group_of(raw, self._data.group)
        except BadCell as error:
            self.bad_rows.add(side.name, str(error), raw.where)
            return
        unit = unit_hash(identity if group is None else group.encode()) if split.shares else 1.0
        side = split.choose(unit)
        indexed = {**row, "row": side.rows}
        if self._in_part:
            indexed |= for_check(row, self._in_part)
        problem = self._label_problem(row) or self._task.check(indexed)
        if problem := problem or (self._unread(indexed) if self._unread else None):
            self.bad_rows.add(side.name, problem, raw.where)
            return
        if raw.remark or self._remarkers:
            self._remark(raw, indexed)
        length = self._task.length(indexed)
        part, key = fingerprint_part(identity, row, length, self._files), content_key(row, self._compared)
        added = SplitRow(row, length, part, raw.where, group, key)
        if split.rare is not None and side is not split.side:
            split.rare.consider(Candidate(unit, side.rows, added, side.name))
        for _ in range(split.times):
            side.add(added)

    def _remark(self, raw: Raw, row: Row) -> None:
        """Count what the source, the task and the kinds of columns remark about a row."""
        for remark in (raw.remark, *(asked(row) for asked in self._remarkers)):
            if remark:
                self.observations.remark(remark, raw.where)

    def _label_problem(self, row: Row) -> str | None:
        """Return a message about a label that `data.labels` does not list, or None."""
        if self._allowed is None:
            return None
        unknown = next((label for label in row_labels(row, self._columns) if label not in self._allowed), None)
        if unknown is None:
            return None
        return f"label {unknown!r} is written; data.labels allows {', '.join(self._data.labels or ())}"


class _UnlabelledReader(_SplitReader):
    """Reads rows without what the model is to predict."""

    labelled = False


def _fingerprint(task: Task, form: int, *sides: SplitSide) -> str:
    """Return the SHA-256 over the task, its columns and the rows of the sides."""
    columns = list(task.stored_columns().items())
    content = [form, task.key(), columns, *(side.hash.hexdigest() for side in sides)]
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _labels(task: Task, data: DataSpec, train: SplitSide) -> tuple[str, ...]:
    """Return the labels in the order of the head's outputs: those that are fixed, or those of the training rows."""
    fixed = task.classes() if data.labels is None else data.labels
    if fixed is not None:
        return fixed
    return _classes(task).in_order(train.labels) if train.labels else ()


def _classes(task: Task) -> Column:
    """Return the kind of the task's column of labels."""
    return next(column for column in columns_of(task.input_columns()).values() if column.classes)


def _pack(task: Task, side: SplitSide, path: Path, processor: Any) -> None:
    """Replace the rows of one side by the rows that the task packs them into."""
    unpacked = path.with_suffix(".read.arrow")
    path.rename(unpacked)
    rows = Rows(unpacked, task.input_columns())
    with RowWriter(path, task.stored_columns()) as writer:
        side.restart(writer, {})
        for row in task.pack((rows.row(index) for index in range(len(rows))), processor):
            length = task.length({**row, "row": side.rows})
            side.add(SplitRow(row, length, canonical(row).encode() + b"\n", str(path)))
    unpacked.unlink()
    if not side.rows:
        raise DataError(f"the {side.name} rows hold too little to make one row of task {task.key()}: add more")


def _drop_unseen_labels(task: Task, folder: Path, *, train: SplitSide, held_out: SplitSide, bad_rows: BadRows) -> None:
    """Write the rows of a held-out side again without those whose label no training row has."""
    columns = columns_of(task.input_columns())
    unseen = held_out.labels.keys() - train.labels.keys()
    if not unseen or task.classes() is not None:
        return

    def keeps(row: Row, index: int, where: str) -> bool:
        unknown = next((label for label in row_labels(row, columns) if label in unseen), None)
        if unknown is not None:
            bad_rows.add(held_out.name, f"label {unknown!r} is in no training row", where)
        return unknown is None

    _rewrite(task, folder, held_out, keeps)


def _rewrite(task: Task, folder: Path, side: SplitSide, keeps: Callable[[Row, int, str], bool]) -> None:
    """Write the rows of a held-out side again without those for which `keeps(row, index, file:row)` is false."""
    columns, compared = columns_of(task.input_columns()), compared_columns(task)
    path = folder / f"{side.name}.arrow"
    complete = path.with_suffix(".read.arrow")
    path.rename(complete)
    rows = Rows(complete, task.input_columns())
    with ExitStack() as stack:
        positions = stack.enter_context(path.with_suffix(".positions").open(encoding="utf-8"))
        side.restart(stack.enter_context(RowWriter(path, task.input_columns())), columns)
        for index, (length, line) in enumerate(zip(rows.lengths.tolist(), positions, strict=True)):
            row, where = rows.stored(index), line.rstrip("\n")
            row.pop("row")
            if keeps(row, index, where):
                identity = fingerprint_part(row_identity(row, columns), row, length, files_of(columns))
                side.add(SplitRow(row, length, identity, where, inputs=content_key(row, compared)))
    complete.unlink()
