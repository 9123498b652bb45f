"""What a row's label is, as scores of features read it: a class, numbers, or tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Column, Row, columns_of
from regraft.data.rows import Rows
from regraft.errors import DataError, Unsupported
from regraft.selection.score import FeatureTarget, TargetKind
from regraft.units import counted

FEWEST = 2
"""Fewest rows with a tag, and without it, for the tag to count."""


def target_of(
    adapted: Adapted, rows: Rows, chosen: NDArray[np.int64], groups: NDArray[np.int64] | None = None
) -> FeatureTarget:
    """Return the labels of the chosen rows, and which of them belong together by the `groups` of all rows.

    Where a row has boxes, a mask, or a tag for each word, its tags are the kinds of things in it. Raises Unsupported
    for a task whose rows have nothing of this kind, and DataError for labels that leave nothing to tell apart.
    """
    target = _labels(adapted, rows, chosen)
    numbers = None if groups is None else np.unique(groups[chosen], return_inverse=True)[1]
    if numbers is None or numbers.max() + 1 == len(numbers):  # each row is a group of its own
        return target
    if not numbers.max():
        raise DataError(
            "all training rows belong to one group, so that no row can be judged by others: add rows of other groups",
            where="data.group",
        )
    return replace(target, groups=numbers)


def _labels(adapted: Adapted, rows: Rows, chosen: NDArray[np.int64]) -> FeatureTarget:
    task, context = adapted.task, adapted.context
    found = task.target_tensor((rows.stored(int(index)) for index in chosen), context)
    if found is not None and found.ndim == 1 and not found.is_floating_point():
        return _classes(found.numpy())
    if found is not None and found.ndim <= 2:
        if context.labels:
            return _tags(found.numpy() > 0.5)
        return _numbers(found.double().numpy())
    return _tags(_present(adapted, rows, chosen))


def _classes(values: NDArray[Any]) -> FeatureTarget:
    counts = np.unique(values, return_counts=True)[1]
    if len(counts) < 2:
        raise DataError("all training rows have the same label: add rows of another one", where="data.train")
    if counts.max() < FEWEST:
        raise DataError(
            f"each of the {counted(len(counts), 'class', 'classes')} has one row, so that no row can be judged by "
            "others of its class: add rows",
            where="data.train",
        )
    return FeatureTarget(TargetKind.CLASSES, values)


def _numbers(values: NDArray[Any]) -> FeatureTarget:
    values = values[:, None] if values.ndim == 1 else values
    varied = values.std(0) > 0
    if len(values) < FEWEST or not varied.any():
        raise DataError("all training rows have the same numbers: add rows with others", where="data.train")
    return FeatureTarget(TargetKind.NUMBERS, values[:, varied])


def _tags(values: NDArray[np.bool_]) -> FeatureTarget:
    present = values.sum(0)
    useful = (present >= FEWEST) & (len(values) - present >= FEWEST)
    if not useful.any():
        raise DataError(
            "no label is in some of the training rows and absent from others (two of each at least), so that one "
            "vector of a row tells nothing about it: add rows, or try the bases with `regraft train`",
            where="data.train",
        )
    return FeatureTarget(TargetKind.TAGS, values[:, useful])


def _present(adapted: Adapted, rows: Rows, chosen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which labels occur in each row, (rows, labels)."""
    columns = columns_of(adapted.task.input_columns())
    named = [(name, columns[name]) for name in adapted.task.target_columns() if columns[name].classes]
    if named:
        found = [set(_names(rows.stored(int(index)), named)) for index in chosen]
        every = sorted(set().union(*found))
        return np.array([[label in row for label in every] for row in found], dtype=bool).reshape(len(found), -1)
    return np.stack([_numbers_present(adapted, rows.row(int(index))) for index in chosen])


def _names(row: Row, columns: Sequence[tuple[str, Column]]) -> Iterator[str]:
    for name, column in columns:
        for label in column.labels(row[name]):
            # What is not counted by rows is a tag for each word, which says whether it begins an entity.
            yield label if column.counted else label.removeprefix("B-").removeprefix("I-")


def _numbers_present(adapted: Adapted, row: Row) -> NDArray[np.bool_]:
    """Return which classes an encoded row's map of class numbers holds. Raises Unsupported where it has none."""
    labels, task = adapted.context.labels, adapted.task
    target = task.encode(row, adapted.context, train=False).get("labels") if labels else None
    every = target.values() if isinstance(target, Mapping) else (target,)
    maps = [one for one in every if isinstance(one, Tensor) and one.ndim == 2 and not one.is_floating_point()]
    if not maps:
        raise Unsupported(
            "`regraft select` compares bases by what one vector of a row tells about its label, and a row of task "
            f"{task.key()} has no label of that kind: compare them with `regraft train`",
            where="task",
        )
    found = torch.unique(maps[0]).long()
    present = np.zeros(len(labels), dtype=bool)
    present[found[(found >= 0) & (found < len(labels))].numpy()] = True
    return present
