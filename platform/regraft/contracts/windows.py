"""Windows: the parts of a long row that a model reads one by one, and that make one answer together.

`Task.encode` may return several windows of a row. Each is a complete example: what is cut, kept or put into batches is
a window, and rows with one window are ordinary rows. `Task.collate` makes one batch of all windows, and lets `labels`
hold a list of windows for each row, from which records and answers are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from regraft.contracts.rows import Example

WINDOWS = "windows"
"""The only key of an example that has several windows."""
T = TypeVar("T")


def windows_of(example: Example) -> list[Example]:
    """Return the windows of an encoded row; the example itself where it has only one."""
    found: list[Example] = example.get(WINDOWS) or [example]
    return found


def windowed(windows: Sequence[Example]) -> Example:
    """Return the windows of one row as its example."""
    return windows[0] if len(windows) == 1 else {WINDOWS: list(windows)}


def all_windows(examples: Iterable[Example]) -> list[Example]:
    """Return the windows of several rows, row after row."""
    return [window for example in examples for window in windows_of(example)]


def by_row(items: Iterable[T], counts: Iterable[int]) -> list[list[T]]:
    """Return items of all windows as one list for each row, by the numbers of windows."""
    rest = iter(items)
    return [list(islice(rest, count)) for count in counts]
