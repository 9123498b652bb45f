"""What a task might be asked: rows made from the kinds of its columns alone, to try a model on before it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regraft.bases.adapted import Adapted
from regraft.contracts import BadCell, Batch, Example, MadeUp, Row, Task, columns_of
from regraft.serving.row_checks import checked, inputs
from regraft.trunk.cut import NotCut
from regraft.trunk.shapes import distinguishes, sizes_of

SAID = "the old man and a small dog went to see two red boats on the long river before it was dark and cold"
WORDS = SAID.split()
SHORT, LONG = (3, 2, 5, 1), (11, 9, 7, 17, 23, 41)
"""Words of a text, in two batches that have to differ in length."""


def rows_of(task: Task, words: int, count: int) -> list[Row]:
    """So many rows of the task, their texts of about so many words."""
    columns = columns_of(inputs(task))
    try:
        made = [
            {name: column.made_up(shared) for name, column in columns.items()}
            for shared in (_shared(words, number) for number in range(count))
        ]
    except BadCell as error:
        raise NotCut(error.of("a column")) from None
    return checked(task, made)


def _shared(words: int, number: int) -> MadeUp:
    """Return the choices for one row: rows of a batch have the same number of words, and not the same words."""
    return MadeUp(number, tuple(WORDS[(3 * number + place) % len(WORDS)] for place in range(words)))


def examples_of(adapted: Adapted, words: int, count: int) -> list[Example]:
    """The same, encoded."""
    rows = rows_of(adapted.task, words, count)
    return [adapted.task.encode(row, adapted.context, train=False) for row in rows]


def probes(adapted: Adapted) -> tuple[list[Example], list[Example]]:
    """Two examples, and three longer ones, that as batches tell all lengths apart; NotCut when none do."""
    task, context = adapted.task, adapted.context
    for few in SHORT:
        for many in LONG:
            short, long = examples_of(adapted, few, 2), examples_of(adapted, many, 3)
            alone = [sizes_of(task.collate([dict(example)], context)) for example in (*short, *long)]
            if distinguishes(sizes_of(collated(adapted, short)), sizes_of(collated(adapted, long)), alone):
                return short, long
    raise NotCut("no two batches were found that tell the lengths of its rows apart")


def collated(adapted: Adapted, examples: Sequence[Example]) -> Batch:
    """Examples as a batch; they stay as they are."""
    return adapted.task.collate([dict(example) for example in examples], adapted.context)


def close(one: Any, other: Any, bound: float) -> bool:
    """Whether two answers say the same: numbers within `bound`, relative where they are large, all else alike."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(close(one[name], other[name], bound) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(close(a, b, bound) for a, b in zip(one, other, strict=True))
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return abs(one - other) <= bound * max(1.0, abs(one)) if numbers else bool(one == other)
