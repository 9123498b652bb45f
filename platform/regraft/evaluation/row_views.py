"""Views of one row with its truth and the model's answer; the kinds of its columns decide, not the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from regraft.bases.adapted import Adapted
from regraft.contracts import Answer, Kind, Row, column_of, columns_of
from regraft.contracts.views import ShownRow, ThumbnailMaker, ViewPart


@dataclass(frozen=True)
class RowView:
    """One row on the page: its error and its view."""

    row: int
    error: float
    wrong: bool
    parts: tuple[ViewPart, ...]
    answer: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    """The name of the row's image file, where it has one."""


def view_parts(row: Row, answer: Answer, thumbnails: ThumbnailMaker, adapted: Adapted) -> tuple[ViewPart, ...]:
    """Return the view of a row: its inputs, with targets drawn on them where possible, then the answer."""
    task, context = adapted.task, adapted.context
    kinds, targets = task.stored_columns(), task.target_columns()
    shown = ShownRow(
        row=task.shown(row),
        answer=answer,
        kinds=kinds,
        targets=tuple(name for name in kinds if name in targets),
        labels=context.labels,
        processor=context.processor,
        encode=lambda: task.encode(row, context, train=False),
        thumbnails=thumbnails,
    )
    return tuple(_parts(shown))


def image_file_name(row: Row, kinds: Mapping[str, Kind]) -> str:
    """Return the name of the file of a row's image (or sound, ...), which readers recognise."""
    columns = columns_of(kinds).items()
    named = (row[name] for name, column in columns if column.by_reference and not column.target)
    return next((value.rsplit("/", 1)[-1] for value in named if isinstance(value, str)), "")


def _parts(shown: ShownRow) -> Iterator[ViewPart]:
    targets = {name: column_of(shown.kinds[name]) for name in shown.targets}
    for name, column in columns_of(shown.kinds).items():
        if name in targets:
            continue
        drawn = (target.drawn_on(name, value, shown) for value, target in targets.items())
        if part := next((part for part in drawn if part), None) or column.view(name, shown):
            yield part
    if targets and not any(target.drawn for target in targets.values()):
        yield next(iter(targets.values())).answer_view(shown)
