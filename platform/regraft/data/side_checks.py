"""Checks of the sides of a split beside one another: shared groups, labels and rows, and sides without rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from regraft.contracts import Task, columns_of, ordered_labels
from regraft.contracts.label_names import alike, labels_text
from regraft.data.overlap import count_overlap, overlap_note
from regraft.data.split_side import SplitSide
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.units import counted

NO_ROWS = "holds no rows: add some, or name another file"
_ROWS = {"train": "training rows", "eval": "evaluation rows", "test": "test rows"}
_USE = {"train": "train on", "eval": "evaluate on", "test": "test on"}
_LEAK = {
    ("train", "eval"): "the evaluation would use rows seen in training",
    ("train", "test"): "the test would use rows seen in training",
    ("eval", "test"): "the test would use rows that choose the checkpoint",
}


def refuse_shared_groups(data: DataSpec, sides: Sequence[SplitSide]) -> None:
    """Raise DataError when rows of one group are on two sides."""
    for first, second in combinations(sides, 2):
        shared = [group for group in second.groups if group in first.groups]
        if not shared:
            continue
        raise DataError(
            f"{counted(len(shared), 'value')} of {data.group!r} {'is' if len(shared) == 1 else 'are'} in the "
            f"{_ROWS[first.name]} and in the {_ROWS[second.name]}, the first here and in {first.groups[shared[0]]}: "
            f"{_LEAK[first.name, second.name]}. Move each group to one side, or write a share in data.{second.name}",
            where=second.groups[shared[0]],
        )


def refuse_empty(data: DataSpec, sides: Sequence[SplitSide], smaller_rows: str = "") -> None:
    """Raise DataError when a side has no rows. `smaller_rows` says how to make more rows of a file."""
    train, *held_out = sides
    shares = [side for side in held_out if not isinstance(_written(data, side), str)]
    if not train.rows and not any(side.rows for side in shares):
        raise DataError(NO_ROWS, where=data.train)
    for side in held_out:
        written = _written(data, side)
        if isinstance(written, str):
            if not side.rows:
                raise DataError(NO_ROWS, where=written)
            continue
        if train.rows and (side.rows or _may_lack_rows(data, train, side)):
            continue
        total = train.rows + sum(share.rows for share in shares)
        what = "row" if total == 1 else "rows"
        what = what if data.group is None else f"{what}, split by {data.group},"
        ways = ["write another share"] if total > 1 else []
        ways += [smaller_rows] if smaller_rows else []
        raise DataError(
            f"a share of {written} of {total} {what} leaves none to {_USE[(side if train.rows else train).name]}: "
            + ", or ".join([*ways, f"name a file of rows in data.{side.name}"]),
            where=f"data.{side.name}",
        )


def _may_lack_rows(data: DataSpec, train: SplitSide, side: SplitSide) -> bool:
    """Return whether a share for evaluation may be empty: each label has one row, which training needs.

    The caller refuses that where the method needs evaluation rows.
    """
    one_each = len(train.labels) > 1 and max(train.labels.values()) == 1 and train.rows == len(train.labels)
    return side.name == "eval" and isinstance(data.eval, float) and one_each


def _written(data: DataSpec, side: SplitSide) -> Any:
    return getattr(data, side.name)


def refuse_labels(task: Task, data: DataSpec, sides: Sequence[SplitSide]) -> None:
    """Raise DataError when the labels cannot be learned, or held-out rows have labels that no training row has."""
    train, *held_out = sides
    columns = [column for column in columns_of(task.input_columns()).values() if column.classes]
    if not columns or task.classes() is not None:
        return
    for column in columns:
        if problem := column.lacking(train.labels, train.rows):
            raise DataError(problem, where=data.train)
    if not train.labels:
        raise DataError("no training row has any label: there is nothing to learn", where=data.train)
    for side in held_out if data.labels is None else ():
        _refuse_unseen(data, train, side)


def _refuse_unseen(data: DataSpec, train: SplitSide, side: SplitSide) -> None:
    unseen = [label for label in ordered_labels(side.labels) if label not in train.labels]
    if not unseen:
        return
    more = f" (and {len(unseen) - 1} more)" if len(unseen) > 1 else ""
    name = f"data.{side.name}"
    what = "correct it, or add" if isinstance(_written(data, side), str) else f"name a file of rows in {name}, or add"
    known = ordered_labels(train.labels)
    if other := alike(unseen[0], known):
        what = f"is it {other!r}, written otherwise? Write it alike in all rows, or add"
    raise DataError(
        f"the label {unseen[0]!r}{more} is in the {_ROWS[side.name]} and in no training row: {what} training rows "
        "of it, leave it out, or list it with all labels in data.labels. "
        f"The training rows have {labels_text(known)}",
        where=side.first[unseen[0]],
    )


def refuse_new_labels(task: Task, data: DataSpec, train: SplitSide, known: frozenset[str]) -> None:
    """Raise DataError when rows of data.target_labels have a label that the source's training rows do not have."""
    new = [label for label in ordered_labels(train.labels) if label not in known]
    if not new or data.labels is not None or task.classes() is not None:
        return
    raise DataError(
        f"the label {new[0]!r} of data.target_labels is in no row of data.train, which has "
        f"{labels_text(ordered_labels(known))}: write it as there, leave the row out, or list all labels in "
        "data.labels",
        where=train.first[new[0]],
    )


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Rows of held-out sides whose inputs are those of rows of another side."""

    evaluation: int
    """Evaluation rows that are training rows too."""
    test: dict[str, int] | None
    """Test rows that are rows of train, and of eval; None without test rows."""
    notes: tuple[str, ...]


def count_overlaps(sides: Sequence[SplitSide]) -> Overlaps:
    """Count the held-out rows that are rows of another side too, by the content of their inputs."""
    train, evaluation, *rest = sides
    overlap = count_overlap(train.inputs, evaluation.inputs)
    notes = overlap_note(overlap, evaluation.rows)
    if not rest:
        return Overlaps(overlap, None, notes)
    [test] = rest
    found = {side.name: count_overlap(side.inputs, test.inputs) for side in (train, evaluation)}
    notes += overlap_note(found["train"], test.rows, "test")
    notes += overlap_note(found["eval"], test.rows, "test", "evaluation")
    return Overlaps(overlap, found, notes)
