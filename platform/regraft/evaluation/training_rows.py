"""Which of the evaluated rows the version's training has seen, by the content of their inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regraft.data.overlap import compared_columns, keys_of, known_by_content
from regraft.data.snapshot import Snapshot, open_snapshot
from regraft.errors import NotFound, RegraftError
from regraft.evaluation.labelled_rows import LabelledRows
from regraft.serving.predictor import Predictor
from regraft.store.objects import ObjectStore


@dataclass(frozen=True)
class SeenRows:
    """Numbers of evaluated rows that training used; None where they are not known."""

    rows: int
    train: int | None = None
    """Rows that are training rows of the version."""
    chosen_by: int | None = None
    """Rows that are evaluation rows of its training, by which its checkpoint was chosen."""
    same: bool = False
    """Whether the rows are exactly the evaluation rows of training, in any order."""
    why: str = ""
    """Why the numbers are not known."""
    taught: bool = False
    """Whether classes were taught afterwards, whose examples are not counted."""

    @property
    def text(self) -> str:
        """The numbers as sentences."""
        examples = ". The examples of classes that were taught afterwards are not counted" if self.taught else ""
        return self._of_training + examples

    @property
    def _of_training(self) -> str:
        if self.train is None or self.chosen_by is None:
            return f"Whether rows here were training rows of this version is not known: {self.why}"
        if not self.train and not self.chosen_by:
            return "No row here was a training row of this version"
        found = [_were(self.train, self.rows, "training rows of this version: metrics are better than on new rows")]
        if self.same:
            found.append("These are the evaluation rows by which its checkpoint was chosen")
        else:
            found.append(_were(self.chosen_by, self.rows, "the rows by which its checkpoint was chosen"))
        return ". ".join(text for text in found if text)

    @property
    def doubtful(self) -> bool:
        """Whether a reader of the metrics should know it: rows were seen in training, or nothing is known."""
        return self.train is None or self.taught or bool(self.train or self.chosen_by)

    def document(self) -> dict[str, Any]:
        """Return the entry of evaluation.json."""
        return {"train": self.train, "chosen_by": self.chosen_by, "sentence": self.text}


def seen_rows(store: ObjectStore, predictor: Predictor, labelled: LabelledRows) -> SeenRows:
    """Compare the evaluated rows with the rows that the version was trained on, where the store still has these."""
    taught = bool((predictor.meta.get("lineage") or {}).get("taught"))
    return replace(_seen_in_training(store, predictor, labelled), taught=taught)


def _seen_in_training(store: ObjectStore, predictor: Predictor, labelled: LabelledRows) -> SeenRows:
    rows = len(labelled.rows)
    task = predictor.adapted.task
    if task.packs:
        return SeenRows(rows, why=f"task {task.key()} packs its rows")
    try:
        snapshot = training_snapshot(store, predictor)
        columns = compared_columns(task)
        if not known_by_content(snapshot.train, columns):
            return SeenRows(rows, why="the rows of its training name files without their content")
        train, evaluation = keys_of(snapshot.train, columns), keys_of(snapshot.eval, columns)
        ours = keys_of(labelled.rows, columns)
    except NotFound:
        return SeenRows(rows, why="the store no longer holds the rows of its training")
    except (RegraftError, OSError) as error:
        return SeenRows(rows, why=f"the rows of its training cannot be read ({error})")
    same = len(ours) == len(evaluation) and bool(np.array_equal(np.sort(ours), np.sort(evaluation)))
    return SeenRows(rows, int(np.isin(ours, train).sum()), int(np.isin(ours, evaluation).sum()), same)


def training_snapshot(store: ObjectStore, predictor: Predictor) -> Snapshot:
    """Open the snapshot of the run that the version came from. Raises NotFound where its lineage names none."""
    lineage = predictor.meta.get("lineage") or {}
    fingerprint = (lineage.get("data") or {}).get("fingerprint")
    if not isinstance(fingerprint, str) or not fingerprint:
        raise NotFound("the version does not name the rows of its training")
    return open_snapshot(store, fingerprint)


def _were(count: int, rows: int, what: str) -> str:
    return f"{count:,} of the {rows:,} rows here {'was' if count == 1 else 'were'} {what}" if count else ""
