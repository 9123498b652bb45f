"""Types of rows, batches, records and answers, and the kinds of columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
"""One row of the snapshot: the columns that the task keeps by name, and `row`, its index; where data are augmented,
also `draw`, a 64-bit number made of (seed, epoch, row) from which every random choice about the row is drawn."""
Example = dict[str, Any]
"""One encoded row, not padded yet. A row that is longer than the model reads may have `windows`, each an example: see
`contracts.windows`."""
Batch = dict[str, Any]
"""Collated examples: tensors, or lists of dicts of tensors and strings. The key `labels` is never passed to the model,
so it may also hold values that answers need. `kept` holds the frozen part's outputs for these rows, and `windows` how
many windows each row has, where a task averages over them; neither is passed."""
Record = dict[str, Any]
"""One row's result of an evaluation: small, made of Python numbers, strings and numpy arrays."""
Answer = dict[str, Any]
"""The answer for one row, as a user gets it; JSON-able."""
Ask = Callable[[Sequence[Row]], Sequence[Answer]]
"""The model's answers to rows without targets, in their order."""
Numbers = Callable[[str], NDArray[np.float64]]
"""A column of numbers of the training rows, (rows,), by its name."""
Kind = str
"""The key of a kind of column, as `regraft show columns` lists them."""


@dataclass(frozen=True, slots=True)
class TextLengths:
    """Tokens of one text of each row, and how many of them are read."""

    what: str
    """The text: `text`, or the name of its column."""
    tokens: Sequence[int]
    """Tokens of the whole text, (rows,), with those that the tokenizer adds; only exact where they are too many."""
    limit: int
    """Tokens that are read; the others are cut off."""
    most: int | None
    """The most that this base can read; None where it has no limit."""
    setting: str
    """The field of the spec that sets the limit, such as `task.max_length`."""
    effect: str = ""
    """What a longer text means, and the way, as the end of a sentence; empty where the rest of it is cut off."""
