"""What a base cannot read of the texts of a run: tokens that its table of embeddings lacks, and texts that are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from regraft.bases.load import BaseLoader, load_processor, surplus_note
from regraft.bases.locate import Base
from regraft.contracts import Context, Task
from regraft.data.row_sample import cut_notes
from regraft.data.snapshot import Snapshot
from regraft.errors import DataError


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
        """Yield a sentence for each side of the rows whose texts are longer than what is read.

        Raises DataError for the first row with a token that the table of embeddings lacks.
        """
        if self.surplus:
            self._refuse_surplus(snapshot)
        for rows, side in ((snapshot.train, "training"), (snapshot.eval, "evaluation")):
            yield from cut_notes(self.task, rows, self.context, side)

    def _refuse_surplus(self, snapshot: Snapshot) -> None:
        context = replace(self.context, labels=snapshot.labels)
        for side, rows in (("training", snapshot.train), ("evaluation", snapshot.eval)):
            for index in range(len(rows)):
                try:
                    self.task.encode(rows.row(index), context, train=True)
                except DataError as error:
                    raise DataError(error.message, where=f"{side} row {index}") from None
