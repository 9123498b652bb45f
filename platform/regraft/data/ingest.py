"""Ingestion of rows: read once, checked, split, hashed and written, with a few thousand of them in memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.columns.files.remote import fetched_ahead
from regraft.contracts import BadCell, Column, Raw, Row, Task, columns_of, ordered_labels
from regraft.contracts.label_names import alike, labels_text
from regraft.data.base_reading import BaseReading
from regraft.data.cell_parsing import ColumnMapping, for_check, group_of, read_in_part
from regraft.data.inputs import DataFile, find_data_files
from regraft.data.observations import Observations, remarkers
from regraft.data.overlap import compared_columns, content_key, count_overlap, overlap_note
from regraft.data.rare_labels import Candidate, RareLabels
from regraft.data.row_identity import by_name, canonical, files_of, fingerprint_part, row_identity, unit_hash
from regraft.data.rows import Rows, RowWriter
from regraft.data.split_side import BadRows, SplitRow, SplitSide, row_labels
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.units import counted

FORMAT = 3
"""Version of the fingerprint and of the Arrow files: another number gives another snapshot."""
BY_NAME = 2
"""The version before: files count by name and size. Rows without files have the same fingerprint in both."""

log = logging.getLogger(__name__)
_NO_ROWS = "holds no rows: add some, or name another file"


@dataclass(frozen=True)
class IngestedRows:
    """The result of reading the data once: Arrow files and facts about their rows."""

    fingerprint: str
    """SHA-256 over the rows of both sides in their order, the task's key and its columns."""
    labels: tuple[str, ...]
    rows: dict[str, int]
    """Number of rows of each side, train and eval."""
    files: dict[str, Path]
    """`train.arrow` and `eval.arrow`."""
    skipped: dict[str, Any]
    """Number of rows left out of each side, and messages of the first ones; empty when there are none."""
    format: int
    """FORMAT, or BY_NAME."""
    notes: tuple[str, ...] = ()
    """Sentences about what was passed over, and about rows that are usable but doubtful."""
    overlap: int = 0
    """Number of evaluation rows whose inputs are those of a training row."""


def ingest(
    task: Task,
    data: DataSpec,
    scratch: Path,
    base: BaseReading | None = None,
    *,
    form: int = FORMAT,
) -> IngestedRows:
    """Read `data` as rows of `task` into two Arrow files in the folder `scratch`.

    A row that `base` cannot read is a bad row. `form` is the version of the fingerprint. Raises DataError for bad rows,
    unless they are skipped. It also does for data that cannot be trained on: no rows, or labels that no training row
    has.
    """
    files = {side: scratch / f"{side}.arrow" for side in ("train", "eval")}
    columns = columns_of(task.input_columns())
    reader = _SplitReader(task, data, scratch, base, form=form)
    bad_rows = reader.bad_rows
    with ExitStack() as stack:
        writers = [stack.enter_context(RowWriter(path, task.input_columns())) for path in files.values()]
        positions = stack.enter_context((scratch / "eval.positions").open("w", encoding="utf-8"))
        train = SplitSide("train", writers[0], columns)
        evaluation = SplitSide("eval", writers[1], columns, positions)
        moved, sentence = reader.read_sides(train, evaluation)
    if data.bad_rows == "fail":
        bad_rows.report()
    if moved:
        _rewrite(task, files["eval"], evaluation, lambda row, index, where: index not in moved)
    _refuse_shared_groups(data, train, evaluation)
    _refuse_empty(data, train, evaluation, reader.smaller_rows)
    if data.bad_rows == "skip" and data.labels is None:
        _drop_unseen_labels(task, files["eval"], train=train, evaluation=evaluation, bad_rows=bad_rows)
        _refuse_empty(data, train, evaluation)
    _refuse_labels(task, data, train, evaluation)
    overlap = count_overlap(train.inputs, evaluation.inputs)
    overlap_notes = overlap_note(overlap, evaluation.rows)  # before packing, after which rows are others
    _warn_of_doubts(data, columns, train)
    if task.packs:
        for side in (train, evaluation):
            _pack(task, side, files[side.name], base.processor() if base else None)
    return IngestedRows(
        fingerprint=_fingerprint(task, reader.form, train, evaluation),
        format=reader.form,
        labels=_labels(task, data, train),
        rows={side.name: side.rows for side in (train, evaluation)},
        files={path.name: path for path in files.values()},
        skipped=bad_rows.document(),
        notes=(*reader.observations.lines(), *filter(None, [sentence]), *overlap_notes),
        overlap=overlap,
    )


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
        reader.read(data.train, _Split(side))
    if data.bad_rows == "fail" or not side.rows:
        bad_rows.report()
    if not side.rows:
        raise DataError(_NO_ROWS, where=data.train)
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


@dataclass(frozen=True)
class _Split:
    """The destination of rows: all go to `side`, or a `share` of them to `other`."""

    side: SplitSide
    other: SplitSide | None = None
    share: float = 0.0
    rare: RareLabels | None = None
    """Rows of the other side that may move, for labels that this side lacks."""

    def choose(self, unit: float) -> SplitSide:
        """Return the side of a row, or of a group of rows, by the hash of its identity alone."""
        return self.other if self.other is not None and unit < self.share else self.side


class _SplitReader:
    """Reads the rows of files, checks each and appends it to its side of the split."""

    def __init__(
        self, task: Task, data: DataSpec, scratch: Path, base: BaseReading | None = None, *, form: int = FORMAT
    ) -> None:
        self.bad_rows = BadRows()
        self._unread = base.problem if base else None
        self._task, self._data, self._scratch = task, data, scratch
        self._columns = columns_of(task.input_columns())
        self._compared = compared_columns(task)
        self._files = files_of(self._columns)
        self._in_part = read_in_part(self._columns)
        self.form = BY_NAME if form == BY_NAME or not self._files else FORMAT
        self._allowed = None if data.labels is None else frozenset(data.labels)
        self.observations = Observations()
        self._remarkers = remarkers(task, self._columns)
        self.smaller_rows = ""
        """What to write so that a file has more rows, where its source has a setting for that."""

    def read(self, written: str, split: _Split) -> None:
        """Read the rows of the files that `written` names into the split."""
        for file in find_data_files(written, self._data.format, self._scratch / "inputs"):
            self.smaller_rows = file.source.smaller_rows()
            for raw, row in self._rows(file, split.side):
                self._assign(raw, row, split)

    def read_sides(self, train: SplitSide, evaluation: SplitSide) -> tuple[frozenset[int], str]:
        """Read both sides. Returns indices of evaluation rows that moved to training, and a sentence about them."""
        data = self._data
        if isinstance(data.eval, str):
            self.read(data.train, _Split(train))
            self.read(data.eval, _Split(evaluation))
            return frozenset(), ""
        fixed = data.labels is not None or data.group is not None or self._task.classes() is not None
        rare = None if fixed else RareLabels(self._columns)
        self.read(data.train, _Split(train, evaluation, data.eval, rare))
        return (frozenset(), "") if rare is None or not train.rows else rare.move(train)

    def _rows(self, file: DataFile, side: SplitSide) -> Iterator[tuple[Raw, dict[str, Any]]]:
        """Yield each row of a file as the source and as the task have it; bad rows are counted to `side`."""
        columns = ColumnMapping(self._task.input_columns(), self._data.columns, file.folder)
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
                    row = self._task.convert(columns.row(raw))
                    yield raw, by_name(row, self._columns) if named else row
                except BadCell as error:
                    self.bad_rows.add(side.name, str(error), raw.where)
        except DataError as error:
            if not self.bad_rows.total or self._data.bad_rows == "skip":
                raise
            self.bad_rows.add(side.name, error.message, error.where)

    def _assign(self, raw: Raw, row: dict[str, Any], split: _Split) -> None:
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
        unit = 1.0 if split.other is None else unit_hash(identity if group is None else group.encode())
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
        if split.rare is not None and side is split.other:
            split.rare.consider(Candidate(unit, side.rows, added))
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


def _drop_unseen_labels(task: Task, path: Path, *, train: SplitSide, evaluation: SplitSide, bad_rows: BadRows) -> None:
    """Write the evaluation rows again without those whose label no training row has."""
    columns = columns_of(task.input_columns())
    unseen = evaluation.labels.keys() - train.labels.keys()
    if not unseen or task.classes() is not None:
        return

    def keeps(row: Row, index: int, where: str) -> bool:
        unknown = next((label for label in row_labels(row, columns) if label in unseen), None)
        if unknown is not None:
            bad_rows.add(evaluation.name, f"label {unknown!r} is in no training row", where)
        return unknown is None

    _rewrite(task, path, evaluation, keeps)


def _rewrite(task: Task, path: Path, evaluation: SplitSide, keeps: Callable[[Row, int, str], bool]) -> None:
    """Write the evaluation rows again without those for which `keeps(row, index, file:row)` is false."""
    columns, compared = columns_of(task.input_columns()), compared_columns(task)
    complete = path.with_suffix(".read.arrow")
    path.rename(complete)
    rows = Rows(complete, task.input_columns())
    with ExitStack() as stack:
        positions = stack.enter_context(path.with_suffix(".positions").open(encoding="utf-8"))
        evaluation.restart(stack.enter_context(RowWriter(path, task.input_columns())), columns)
        for index, (length, line) in enumerate(zip(rows.lengths.tolist(), positions, strict=True)):
            row, where = rows.stored(index), line.rstrip("\n")
            row.pop("row")
            if keeps(row, index, where):
                identity = fingerprint_part(row_identity(row, columns), row, length, files_of(columns))
                evaluation.add(SplitRow(row, length, identity, where, inputs=content_key(row, compared)))
    complete.unlink()


def _refuse_shared_groups(data: DataSpec, train: SplitSide, evaluation: SplitSide) -> None:
    """Raise DataError when rows of one group are on both sides."""
    shared = [group for group in evaluation.groups if group in train.groups]
    if not shared:
        return
    raise DataError(
        f"{counted(len(shared), 'value')} of {data.group!r} {'is' if len(shared) == 1 else 'are'} in the training rows "
        "and in the evaluation rows, the first here "
        "and in " + train.groups[shared[0]] + ": the evaluation would use rows seen in training. Move each group to "
        "one side, or write a share in data.eval",
        where=evaluation.groups[shared[0]],
    )


def _refuse_empty(data: DataSpec, train: SplitSide, evaluation: SplitSide, smaller_rows: str = "") -> None:
    """Raise DataError when a side has no rows. `smaller_rows` says how to make more rows of a file."""
    if not train.rows and (not evaluation.rows or isinstance(data.eval, str)):
        raise DataError(_NO_ROWS, where=data.train)
    if isinstance(data.eval, str):
        if not evaluation.rows:
            raise DataError(_NO_ROWS, where=data.eval)
    elif not train.rows or not evaluation.rows:
        side = "train on" if not train.rows else "evaluate on"
        total = train.rows + evaluation.rows
        what = "row" if total == 1 else "rows"
        what = what if data.group is None else f"{what}, split by {data.group},"
        ways = ["write another share"] if total > 1 else []
        ways += [smaller_rows] if smaller_rows else []
        raise DataError(
            f"a share of {data.eval} of {total} {what} leaves none to {side}: "
            + ", or ".join([*ways, "name a file of rows in data.eval"]),
            where="data.eval",
        )


def _refuse_labels(task: Task, data: DataSpec, train: SplitSide, evaluation: SplitSide) -> None:
    """Raise DataError when the labels cannot be learned, or evaluation rows have labels that no training row has."""
    columns = [column for column in columns_of(task.input_columns()).values() if column.classes]
    if not columns or task.classes() is not None:
        return
    for column in columns:
        if problem := column.lacking(train.labels, train.rows):
            raise DataError(problem, where=data.train)
    if not train.labels:
        raise DataError("no training row has any label: there is nothing to learn", where=data.train)
    unseen = [label for label in ordered_labels(evaluation.labels) if label not in train.labels]
    if unseen and data.labels is None:
        more = f" (and {len(unseen) - 1} more)" if len(unseen) > 1 else ""
        what = "correct it, or add" if isinstance(data.eval, str) else "name a file of rows in data.eval, or add"
        known = ordered_labels(train.labels)
        if other := alike(unseen[0], known):
            what = f"is it {other!r}, written otherwise? Write it alike in all rows, or add"
        raise DataError(
            f"the label {unseen[0]!r}{more} is in the evaluation rows and in no training row: {what} training rows "
            "of it, leave it out, or list it with all labels in data.labels. "
            f"The training rows have {labels_text(known)}",
            where=evaluation.first[unseen[0]],
        )
