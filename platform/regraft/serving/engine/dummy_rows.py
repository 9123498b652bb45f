"""Dummy rows of a task, made from the kinds of its columns alone, to verify a model before it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regraft.bases.adapted import Adapted
from regraft.contracts import BadCell, Batch, Example, MadeUp, Row, Task, columns_of, windows_of
from regraft.media.pixels.depth_maps import same_depths
from regraft.serving.row_checks import check_rows, prediction_columns
from regraft.trunk.cut import NotCut
from regraft.trunk.shapes import distinguishes, sizes_of

SENTENCE = "the old man and a small dog went to see two red boats on the long river before it was dark and cold"
WORDS = SENTENCE.split()
SHORT, LONG = (3, 2, 5, 1), (11, 9, 7, 17, 23, 41)
"""Words of the texts in two batches, which must differ in length."""


def rows_of(task: Task, words: int, count: int) -> list[Row]:
    """Return `count` rows, with texts of about `words` words. Raises NotCut for kinds without dummy values."""
    columns = columns_of(prediction_columns(task))
    try:
        made = [
            {name: column.made_up(shared) for name, column in columns.items()}
            for shared in (_shared(words, number) for number in range(count))
        ]
    except BadCell as error:
        raise NotCut(error.of("a column")) from None
    return check_rows(task, made)


def _shared(words: int, number: int) -> MadeUp:
    """Return the choices for one row: rows of a batch have the same number of words, and not the same words."""
    return MadeUp(number, tuple(WORDS[(3 * number + place) % len(WORDS)] for place in range(words)))


def examples_of(adapted: Adapted, words: int, count: int) -> list[Example]:
    """Return encoded rows of `rows_of`; of a row in several windows, the first one."""
    rows = rows_of(adapted.task, words, count)
    return [windows_of(adapted.task.encode(row, adapted.context, train=False))[0] for row in rows]


def probes(adapted: Adapted) -> tuple[list[Example], list[Example]]:
    """Return two examples and three longer ones, which as two batches distinguish every dimension that varies.

    Raises NotCut when no such batches are found.
    """
    task, context = adapted.task, adapted.context
    for few in SHORT:
        for many in LONG:
            short, long = examples_of(adapted, few, 2), examples_of(adapted, many, 3)
            alone = [sizes_of(task.collate([dict(example)], context)) for example in (*short, *long)]
            if distinguishes(sizes_of(collated(adapted, short)), sizes_of(collated(adapted, long)), alone):
                return short, long
    raise NotCut("no two batches were found that distinguish the lengths of its rows")


def collated(adapted: Adapted, examples: Sequence[Example]) -> Batch:
    """Collate examples into a batch without changing them."""
    return adapted.task.collate([dict(example) for example in examples], adapted.context)


def close(one: Any, other: Any, bound: float) -> bool:
    """Return whether two answers are equal: numbers within `bound`, relative to large ones, and all else exactly.

    Depth maps are numbers, too: a thousandth of their range counts as equal.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(close(one[name], other[name], bound) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(close(a, b, bound) for a, b in zip(one, other, strict=True))
    if isinstance(one, str) and isinstance(other, str):
        return one == other or same_depths(one, other)
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return abs(one - other) <= bound * max(1.0, abs(one)) if numbers else bool(one == other)
