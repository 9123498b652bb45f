"""Windows: the parts of a long row that a model reads one by one, and that make one answer together.

`Task.encode` may return several windows of a row. Each is a complete example: what is cut, kept or put into batches is
a window, and rows with one window are ordinary rows. `Task.collate` makes one batch of all windows, and lets `labels`
hold a list of windows for each row, from which records and answers are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import SimpleNamespace
from typing import Any, TypeVar

from regraft.contracts.rows import Batch, Example

WINDOWS = "windows"
"""The only key of an example that has several windows."""
MOST_AT_ONCE = 128
"""Windows of a batch that one pass computes outside of training: a single row may have thousands."""
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


def in_parts(forward: Callable[[Batch], Any], batch: Batch) -> Any:
    """Return the output of a forward pass on a batch; of very many windows, that of several passes joined.

    The values of an output of several passes are its tensors of one slice for each window, as attributes.
    """
    labels = batch.get("labels")
    windowed_rows = isinstance(labels, list) and all(isinstance(row, list) for row in labels)
    count = sum(map(len, labels)) if windowed_rows and labels else 0
    if count <= MOST_AT_ONCE:
        return forward(batch)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    starts = range(0, count, MOST_AT_ONCE)
    parts = [{name: value[at : at + MOST_AT_ONCE] for name, value in inputs.items()} for at in starts]
    return _joined(
        [
            _tensors_by_window(forward(part), min(MOST_AT_ONCE, count - at))
            for part, at in zip(parts, starts, strict=True)
        ]
    )


def _tensors_by_window(output: Any, count: int) -> dict[str, Any]:
    """Return the tensors of an output that have a slice for each window."""
    items = output.items() if isinstance(output, Mapping) else vars(output).items()
    return {name: value for name, value in items if getattr(value, "ndim", 0) and len(value) == count}


def _joined(parts: Sequence[Mapping[str, Any]]) -> SimpleNamespace:
    import torch

    return SimpleNamespace(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
