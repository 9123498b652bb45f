"""Which tasks the columns of a file fit: every task is tried, and columns are assigned by name and by likeness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import ValidationError

from regraft.contracts import BadCell, CellSample, Column, Task, columns_of
from regraft.errors import DataError, RequestError
from regraft.spec.column_names import Names, column_names

ALIKE = 0.1
"""Strengths within this of each other fit equally."""
_LEAST = 0.5
_BY_NAME = 1.0
_READ = 20
"""Cells of a column that are parsed to see whether it is of a kind."""


@dataclass(frozen=True)
class Assigned:
    """The column or columns of a file for one column of a task."""

    names: Names
    strength: float
    evidence: str
    rivals: tuple[str, ...] = ()
    """Other columns of the file that fit as well."""


@dataclass(frozen=True)
class TaskFit:
    """A task whose columns were all found."""

    tasks: tuple[Task, ...]
    """The task in each form that its rows have, the first one preferred."""
    columns: Mapping[str, Assigned]

    @property
    def task(self) -> Task:
        """The task in its first form."""
        return self.tasks[0]

    @property
    def uses(self) -> frozenset[str]:
        """The columns of the file that it reads."""
        return frozenset(name for one in self.columns.values() for name in column_names(one.names))

    @property
    def strength(self) -> float:
        """Mean strength of its columns."""
        return sum(one.strength for one in self.columns.values()) / len(self.columns)

    def mapping(self) -> dict[str, Names]:
        """Return `data.columns`: the columns that have other names in the file."""
        return {name: one.names for name, one in self.columns.items() if one.names != name}


def fitting_tasks(
    samples: Mapping[str, CellSample], written: Mapping[str, Names], only: str | None = None
) -> list[TaskFit]:
    """Return the tasks that fit best: those that read most of the columns, and of these the likeliest.

    `written` names columns of the file by the task's; `only` is the key of the one task that is asked for.
    """
    names = [only] if only is not None else [name for name in Task.names() if Task.lookup(name).proposed]
    every = [fit for name in names if (fit := _fit(name, samples, written)) is not None]
    widest = [fit for fit in every if not any(fit.uses < other.uses for other in every)]
    best = max((fit.strength for fit in widest), default=0.0)
    return [fit for fit in widest if fit.strength > best - ALIKE]


def shapes_of(name: str) -> Iterator[Task]:
    """Yield a task in each form that its rows may have. Raises UnknownPlugin."""
    member = Task.lookup(name)
    for fields in member.row_shapes:
        try:
            yield member.model_validate(fields)
        except ValidationError:
            continue  # a task of the user's that needs fields


def _fit(name: str, samples: Mapping[str, CellSample], written: Mapping[str, Names]) -> TaskFit | None:
    """Return how a task fits the columns; the first form whose columns are found decides which they are."""
    chosen: Mapping[str, Assigned] | None = None
    fitting: list[Task] = []
    for task in shapes_of(name):
        columns = _assign(task, samples, written)
        if columns is None or (chosen is not None and columns.keys() != chosen.keys()):
            continue
        chosen = columns if chosen is None else chosen
        fitting.append(task)
    return None if chosen is None else TaskFit(tuple(fitting), chosen)


def _assign(
    task: Task, samples: Mapping[str, CellSample], written: Mapping[str, Names]
) -> Mapping[str, Assigned] | None:
    """Return the column of the file for each of the task's; None where one is missing."""
    kinds = columns_of(task.input_columns())
    found: dict[str, Assigned] = {}
    for name, kind in kinds.items():
        if name in written:
            found[name] = Assigned(written[name], _BY_NAME, "is what --columns says")
        elif name in samples and reads(kind, samples[name]):
            likeness = kind.likeness(samples[name])
            found[name] = Assigned(name, _BY_NAME, likeness.evidence if likeness else "has the task's own name")
    for name, kind in kinds.items():
        if name not in found:
            used = {other for one in found.values() for other in column_names(one.names)}
            assigned = _likeliest(kind, [one for one in samples.values() if one.name not in used])
            if assigned is not None:
                found[name] = assigned
            elif not kind.optional:
                return None
    return {name: found[name] for name in kinds if name in found}


def _likeliest(kind: Column, free: Sequence[CellSample]) -> Assigned | None:
    """Return the column that looks most like a kind, the first of equals; or the columns of single labels."""
    liked = [(one, likeness) for one in free if (likeness := kind.likeness(one)) is not None and reads(kind, one)]
    liked = [(one, likeness) for one, likeness in liked if likeness.strength >= _LEAST]
    if not liked:
        return _marked(kind, free)
    best, likeness = max(liked, key=lambda pair: pair[1].strength)
    rivals = [one.name for one, other in liked if one is not best and other.strength > likeness.strength - ALIKE]
    return Assigned(best.name, likeness.strength, likeness.evidence, tuple(rivals))


def _marked(kind: Column, free: Sequence[CellSample]) -> Assigned | None:
    """Return the columns that say of one label each whether a row has it, for a kind that joins such columns."""
    if not (kind.joins and kind.classes):
        return None
    marks = [one.name for one in free if one.distinct <= 2 and _joins(kind, one)]
    return Assigned(tuple(marks), 0.8, f"{len(marks)} columns of 1 and 0") if len(marks) > 1 else None


def _joins(kind: Column, sample: CellSample) -> bool:
    try:
        for cell in sample.cells[:_READ]:
            kind.join({sample.name: cell}, sample.folder)
    except BadCell:
        return False
    return True


def reads(kind: Column, sample: CellSample) -> bool:
    """Return whether cells of a column can be parsed as a kind: of the first ones, almost all."""
    cells = sample.cells[: 3 if kind.by_reference else _READ]
    wrong = 0
    for cell in cells:
        try:
            kind.read_cell(cell, sample.folder)
        except BadCell:
            wrong += 1
    return bool(cells) and wrong * 5 <= len(cells)


def check_written(samples: Mapping[str, CellSample], written: Mapping[str, Names], where: str) -> None:
    """Raise RequestError for a column of --columns that the file does not have."""
    for name, names in written.items():
        for one in column_names(names):
            if one not in samples:
                near = get_close_matches(one, samples, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise RequestError(
                    f"--columns {name}={one} is written, and there is no column {one!r}.{hint} Columns are "
                    f"{', '.join(map(repr, samples))}",
                    where=where,
                )


def refuse_rivals(fit: TaskFit, where: str) -> None:
    """Raise RequestError where two columns could equally be one of the task's targets or inputs."""
    taken = fit.uses
    for name, one in fit.columns.items():
        rivals = [rival for rival in one.rivals if rival not in taken]
        if rivals:
            both = " and ".join(repr(other) for other in (*column_names(one.names), *rivals))
            raise RequestError(
                f"columns {both} could each be the {name} of task {fit.task.key()}: write --columns "
                f"{name}={column_names(one.names)[0]} or --columns {name}={rivals[0]}",
                where=where,
            )


def no_fit(samples: Mapping[str, CellSample], only: str | None, where: str) -> DataError:
    """Return the error for columns that fit no task."""
    has = ", ".join(f"{one.name!r} ({described(one)})" for one in list(samples.values())[:20])
    if only is not None:
        wanted = " or ".join(
            ", ".join(f"{name} ({kind})" for name, kind in task.input_columns().items()) for task in shapes_of(only)
        )
        return DataError(
            f"task {only} reads {wanted}, which are not recognised among the columns {has}: write --columns A=B, where "
            "A is the task's name of a column and B the file's",
            where=where,
        )
    return DataError(
        f"no labels are recognised, and no task fits the columns {has}: write --task and --columns A=B (the task's "
        "name of a column, and the file's), or give labels: a column of them, or a folder of pictures for each class",
        where=where,
    )


def described(sample: CellSample) -> str:
    """Return what a column holds, in a few words."""
    first = sample.cells[0] if sample.cells else None
    kind = {"str": "texts", "int": "numbers", "float": "numbers", "list": "lists", "dict": "objects"}.get(
        type(first).__name__, "values"
    )
    return f"{sample.distinct:,} different {kind} in {sample.rows:,} rows"
