"""A look at data: asks nothing, and states every conclusion with what shows it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from regraft.contracts import BadCell, CellSample, Column, Source, Task, columns_of
from regraft.data.inputs import DataFile, find_data_files
from regraft.data.look.column_samples import MOST_ROWS, ReadRows, read_columns
from regraft.data.look.splits_given import split_folders, split_parts
from regraft.data.look.task_fit import TaskFit, check_written, fitting_tasks, no_fit, refuse_rivals
from regraft.errors import DataError, RequestError
from regraft.spec.column_names import Names, column_line, column_names
from regraft.units import counted

_GROUP = re.compile(
    r"(^|[_ .-])(patient|subject|document|doc|group|author|user|customer|session|speaker|study|case|scene|video)"
    r"([_ .-]?(id|nr|no|number|name))?$",
    re.IGNORECASE,
)
"""Names of columns whose rows belong together."""
_FEWEST_GROUPS = 10


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a look concludes, and what shows it."""

    subject: str
    finding: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class LookRequest:
    """What is looked at, and what is known of it before."""

    data: str
    """A file, a folder, a glob or a URL, as `data.train` has it."""
    task: str | None = None
    """Key of the task; None: it is found."""
    columns: Mapping[str, Names] = field(default_factory=dict)
    """Columns of the file by the task's names."""
    format: Source | None = None


@dataclass(frozen=True, slots=True)
class DataLook:
    """The conclusions of a look, and the part of a spec that they give."""

    tasks: tuple[Task, ...]
    """The task, in each form that its rows may have."""
    data: dict[str, Any]
    """The section `data` of a spec; shares of the rows are not in it."""
    rows: int
    conclusions: tuple[Conclusion, ...]

    @property
    def task(self) -> Task:
        """The task in its first form."""
        return self.tasks[0]

    def document(self) -> dict[str, Any]:
        """Return the look as JSON-able data."""
        return {
            "task": self.task.model_dump(mode="json"),
            "data": self.data,
            "rows": self.rows,
            "conclusions": [asdict(one) for one in self.conclusions],
        }


def look_at(request: LookRequest) -> DataLook:
    """Look at data. Raises RequestError where they fit several tasks equally, and DataError where they fit none.

    Every row is read, up to 200,000 of them; pictures are opened for a sample.
    """
    if request.task is not None:
        Task.lookup(request.task)  # refused before anything is read
    with tempfile.TemporaryDirectory(prefix="regraft-look-") as scratch:
        files, sides, source = _files(request, Path(scratch))
        read = read_columns(chain.from_iterable(file.rows() for file in files), files[0].folder)
        fit = _fit(request, read)
        usual = _is_usual(request, files, source)
        data = {**sides, **_data(fit, None if usual else source)}
        group = _group(read, fit)
        if group is not None and group[0]:
            data["group"] = group[0]
        found = [
            _on_source(files, source, sides, usual=usual),
            *_on_rows(read),
            *_on_columns(fit),
            Conclusion("task", fit.task.key(), _why(fit, read, asked=request.task is not None)),
            *([] if group is None else [group[1]]),
            *_on_values(fit, read),
        ]
    return DataLook(fit.tasks, data, read.rows, tuple(found))


def _files(request: LookRequest, scratch: Path) -> tuple[list[DataFile], dict[str, str], Source]:
    """Return the training files, what the data section says of each side, and the source."""
    sides = split_folders(request.data) or {"train": request.data}
    form = request.format or _proposed(Path(sides["train"]).expanduser())
    files = list(find_data_files(sides["train"], form, scratch))
    if not files:
        raise DataError("names no files: name a file, a folder or a glob of rows", where=request.data)
    source = files[0].source
    if form is None and (found := _proposed(files[0].path)) is not None:
        source, files = found, list(find_data_files(sides["train"], found, scratch))
    if len(sides) == 1 and (parts := split_parts(sides["train"], source, files[0].path)):
        sides, files = parts, list(find_data_files(parts["train"], source, scratch))
    return files, sides, source


def _proposed(path: Path) -> Source | None:
    """Return the source that recognises the beginning of a file; None where none does, or several do."""
    if not path.is_file():
        return None
    found = [one for key in Source.names() if (one := Source.lookup(key).proposed(path)) is not None]
    return found[0] if len(found) == 1 else None


def _is_usual(request: LookRequest, files: list[DataFile], source: Source) -> bool:
    """Return whether a spec needs not name the source, because the files' names give it."""
    if request.format is not None:
        return False
    plain = type(source)()
    part = getattr(source, "part", None)
    same = source == (plain if part is None else plain.model_copy(update={"part": part}))
    return same and all(plain.accepts(file.path) for file in files)


def _fit(request: LookRequest, read: ReadRows) -> TaskFit:
    """Return the one task that fits. Raises RequestError, or DataError, with what to do."""
    where = request.data
    check_written(read.columns, request.columns, where)
    fits = [kept for fit in fitting_tasks(read.columns, request.columns, request.task) if (kept := _checked(fit, read))]
    if not fits:
        raise no_fit(read.columns, request.task, where)
    if len(fits) > 1:
        keys = [fit.task.key() for fit in fits]
        unlabelled = all(not fit.task.target_columns() for fit in fits)
        found = "no labels are recognised, and without them " if unlabelled else ""
        how = "; ".join(f"{fit.task.key()} with columns {column_line(_names(fit))}" for fit in fits)
        raise RequestError(
            f"{found}{' and '.join([', '.join(keys[:-1]), keys[-1]])} fit these rows equally ({how}): write "
            f"{' or '.join(f'--task {key}' for key in keys)}",
            where=where,
        )
    refuse_rivals(fits[0], where)
    _refuse_unlearnable(fits[0], read, where)
    return fits[0]


def _names(fit: TaskFit) -> dict[str, Names]:
    return {name: one.names for name, one in fit.columns.items()}


def _checked(fit: TaskFit, read: ReadRows) -> TaskFit | None:
    """Return the fit with the forms whose rows can be converted and checked; None where there are none."""
    kinds = columns_of(fit.task.input_columns())
    if any(not isinstance(one.names, str) for one in fit.columns.values()):
        return fit
    cells = {name: read.columns[str(one.names)] for name, one in fit.columns.items()}
    length = {len(one.cells) for one in cells.values()}
    if len(length) > 1:  # some rows lack a value: what is not there cannot be checked row by row
        return fit
    rows = [_row(cells, kinds, number) for number in range(min(20, *length))]
    kept = tuple(task for task in fit.tasks if _takes(task, [row for row in rows if row is not None]))
    return TaskFit(kept, fit.columns) if kept else None


def _row(cells: Mapping[str, CellSample], kinds: Mapping[str, Column], number: int) -> dict[str, Any] | None:
    """Return one row of the sample as the task's kinds of columns read it; None for a bad one."""
    try:
        row = {name: kinds[name].read_cell(one.cells[number], one.folder) for name, one in cells.items()}
        return {name: kinds[name].in_row(value, row, kinds) for name, value in row.items()}
    except BadCell:
        return None


def _takes(task: Task, rows: list[dict[str, Any]]) -> bool:
    """Return whether a task can use most rows of a sample."""
    wrong = 0
    for number, row in enumerate(rows):
        try:
            problem = task.check({**task.convert(dict(row)), "row": number})
        except (BadCell, DataError) as error:
            problem = str(error)
        wrong += problem is not None
    return wrong * 5 <= len(rows)


def _refuse_unlearnable(fit: TaskFit, read: ReadRows, where: str) -> None:
    """Raise DataError for rows that are all alike, and for classes of which nothing can be learned or measured."""
    kinds, targets = columns_of(fit.task.input_columns()), fit.task.target_columns()
    inputs = [
        read.columns[one]
        for name, found in fit.columns.items()
        if name not in targets
        for one in column_names(found.names)
    ]
    if read.rows > 1 and inputs and all(one.distinct <= 1 for one in inputs):
        names = " and ".join(repr(one.name) for one in inputs)
        raise DataError(
            f"all {read.rows:,} rows have the same {names}, from which nothing can be told apart: name the column of "
            "the inputs by --columns, or other data",
            where=where,
        )
    for name, found in fit.columns.items():
        sample = read.columns.get(found.names) if isinstance(found.names, str) else None
        if sample is None or not kinds[name].classes or not sample.counts or not kinds[name].counted:
            continue
        if problem := kinds[name].lacking(sample.counts, sample.rows):
            raise DataError(problem, where=where)
        if max(sample.counts.values()) == 1:
            raise DataError(
                f"each of the {counted(len(sample.counts), 'class', 'classes')} in column {sample.name!r} has one row: "
                "none is left to choose a model by and none to measure it on. Add rows of each class, or name the "
                "column of labels by --columns",
                where=where,
            )


def _data(fit: TaskFit, source: Source | None) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if mapping := fit.mapping():
        data["columns"] = {name: names if isinstance(names, str) else list(names) for name, names in mapping.items()}
    if source is not None:
        usual = type(source)().model_dump(mode="json")
        given = source.model_dump(mode="json").items()
        data["format"] = {
            key: value for key, value in given if key == "type" or (value != usual.get(key) and key != "part")
        }
    return data


def _on_source(files: list[DataFile], source: Source, sides: Mapping[str, str], *, usual: bool) -> Conclusion:
    """Return how the files are read, and which sides of a split they have."""
    shown = source.key() if usual else source.written()
    named = ", ".join(f"{side}: {place}" for side, place in sides.items() if side != "train")
    given = f"the data have their own sides ({named})" if named else counted(len(files), "file")
    why = "by its name" if usual else "by what its first rows show"
    return Conclusion("source", shown, f"{why}; {given}")


def _on_rows(read: ReadRows) -> list[Conclusion]:
    """Return how many rows there are, and what cannot be used."""
    whole = "" if read.whole else f"the first {MOST_ROWS:,} of them were read"
    found = [Conclusion("rows", f"{read.rows:,}{'' if read.whole else ' and more'}", whole)]
    if read.bad:
        found.append(Conclusion("bad rows", f"{read.bad:,} that are left out", f"the first: {read.problem}"))
    found += [Conclusion("passed over", f"{count:,}", kind) for kind, count in read.ignored.items()]
    return found


def _on_columns(fit: TaskFit) -> list[Conclusion]:
    """Return which column of the file is which of the task's."""
    found = []
    for name, one in fit.columns.items():
        names = ", ".join(column_names(one.names))
        found.append(Conclusion(f"column {name}", names, one.evidence))
    return found


def _why(fit: TaskFit, read: ReadRows, *, asked: bool) -> str:
    """Return why this task is the one."""
    if asked:
        return "is what --task says"
    unused = [name for name in read.columns if name not in fit.uses and "." not in name]
    rest = f"; {', '.join(unused)} {'is' if len(unused) == 1 else 'are'} not read" if unused else ""
    names = dict.fromkeys(name for one in fit.columns.values() for name in column_names(one.names))
    return f"reads {', '.join(names)}, and no other task fits these as well{rest}"


def _group(read: ReadRows, fit: TaskFit) -> tuple[str, Conclusion] | None:
    """Return the column whose rows stay together, by its name and its repeated values; empty if there are too few."""
    for name, sample in read.columns.items():
        repeated = sample.counts and sample.rows == read.rows and 1 < sample.distinct < sample.rows
        if name in fit.uses or not repeated or not _GROUP.search(name):
            continue
        shown = f"{sample.distinct:,} values in {sample.rows:,} rows"
        if sample.distinct < _FEWEST_GROUPS:
            why = f"{shown}: too few to hold some of them out, so rows are split one by one"
            return "", Conclusion("groups", f"{name} is not used", why)
        why = f"{shown}, and its name: rows of one {name} stay on one side of the split"
        return name, Conclusion("groups", name, why)
    return None


def _on_values(fit: TaskFit, read: ReadRows) -> list[Conclusion]:
    """Return what the kinds of the task's columns say about their values, and how many inputs are equal."""
    kinds, targets = columns_of(fit.task.input_columns()), fit.task.target_columns()
    found = []
    for name, one in fit.columns.items():
        sample = read.columns.get(one.names) if isinstance(one.names, str) else None
        if sample is None:
            continue
        if (about := kinds[name].described(sample)) is not None:
            found.append(Conclusion(about[0], about[1], f"column {sample.name}"))
        if name not in targets and (equal := sample.rows - sample.distinct) and not kinds[name].by_reference:
            found.append(Conclusion("equal rows", f"{equal:,} repeat an earlier {name}", f"column {sample.name}"))
    return found
