"""What a base cannot read of the texts of a run: tokens that its table of embeddings lacks, and texts that are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from regraft.bases.load import BaseLoader, load_processor, surplus_note
from regraft.bases.locate import Base
from regraft.contracts import Context, Row, Task, columns_of
from regraft.data.row_sample import cut_notes
from regraft.data.snapshot import Snapshot
from regraft.data.split_side import row_labels
from regraft.errors import DataError

_SIDES = {"train": "training", "eval": "evaluation", "test": "test", "target": "target"}


@dataclass(frozen=True, slots=True)
class TextChecks:
    """A base's own tokenizer and configuration, to check the texts of one task."""

    task: Task
    context: Context
    surplus: str | None
    """A sentence about tokens that the table of embeddings lacks; None for a base that has a row for each."""

    @classmethod
    def of(cls, task: Task, base: Base) -> TextChecks | None:
        """Open a base's tokenizer; None for a task that reads no texts."""
        if type(task).text_lengths is Task.text_lengths:
            return None
        context = Context(load_processor(base, task.modality), (), BaseLoader(base).config)
        return cls(task, context, surplus_note(context.processor, context.config))

    def cut(self, snapshot: Snapshot) -> Iterator[str]:
        """Yield a sentence for each side of the rows whose texts are longer than what is read."""
        for name, rows in snapshot.sides.items():
            yield from cut_notes(self.task, rows, self.context, _SIDES[name])

    def problem(self, row: Row) -> str | None:
        """Return why the base cannot read a row, such as a token that its table of embeddings lacks; None if it can."""
        labels = dict.fromkeys(row_labels(row, columns_of(self.task.input_columns())))
        try:
            self.task.encode(row, replace(self.context, labels=tuple(labels)), train=True)
        except DataError as error:
            return error.message
        return None
