"""The check of a choice by labelled target rows, which chose nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from regraft.adaptation.check import HELD, UNKNOWN, Checked, check
from regraft.contracts import Progress, Record
from regraft.data.ingest import ingest_for_evaluation
from regraft.errors import DataError
from regraft.evaluation.labelled_rows import LabelledRows, read_labelled
from regraft.evaluation.measure import measure
from regraft.evaluation.options import EvaluationOptions
from regraft.evaluation.training_rows import seen_rows
from regraft.serving.predictor import Predictor
from regraft.spec.document import absolute
from regraft.spec.run import RunSpec
from regraft.store.atomic_files import writing_locally
from regraft.store.objects import ObjectStore
from regraft.units import counted

SENTENCES = {
    HELD: "The choice held: it is better than the source-only model on these rows.",
    UNKNOWN: "These rows cannot tell whether the choice is better than the source-only model.",
}
"""By verdict; of any other, the choice is worse."""


def check_choice(
    store: ObjectStore, chosen: str, source: str, path: str, *, progress: Progress | None
) -> dict[str, Any]:
    """Compare two versions on labelled rows; return the figures and a sentence.

    Raises DataError for rows that cannot be used, with the option that names them.
    """
    predictor = Predictor.open(store, chosen)
    with tempfile.TemporaryDirectory(prefix="regraft-adapt-") as scratch:
        with writing_locally(Path(scratch)):
            rows = _read(predictor, path, Path(scratch))
        ours = measure(predictor, rows, progress).record_list
        seen = seen_rows(store, predictor, rows)
        same = chosen == source
        theirs = ours if same else measure(Predictor.open(store, source), rows, progress).record_list
    labels, missing = predictor.labels, _absent_labels(ours, predictor.labels)
    found = check(_numbers(ours, "predicted", labels), _numbers(theirs, "predicted", labels), _truth(ours, labels))
    verdict = "" if same else found.verdict
    document = {
        "data": path,
        "rows": found.rows,
        "chosen": found.chosen,
        "source_only": found.source_only,
        "difference": found.difference,
        "low": None if same else found.low,
        "high": None if same else found.high,
        "verdict": verdict,
        "absent": missing,
        "seen": seen.document(),
    }
    known = f" {seen.text}." if seen.train or seen.chosen_by else ""
    return {**document, "sentence": _sentence(found, verdict, missing) + known}


def refuse_unusable(spec: RunSpec, labels: Sequence[str], path: str) -> None:
    """Raise DataError for rows of a check that cannot be used, before anything is trained."""
    data = spec.data.model_copy(
        update={
            "train": absolute(path),
            "labels": tuple(labels),
            "bad_rows": "fail",
            **dict.fromkeys(("target", "target_labels", "test", "group")),
        }
    )
    with tempfile.TemporaryDirectory(prefix="regraft-adapt-") as scratch, writing_locally(Path(scratch)):
        try:
            ingest_for_evaluation(spec.task, data, Path(scratch))
        except DataError as error:
            raise _of_check(error) from error


def _of_check(error: DataError) -> DataError:
    """Return an error of labelled rows with the option that names them."""
    return DataError(f"--check: {error.message.replace('data.labels allows', 'the model knows')}", error.where)


def _read(predictor: Predictor, path: str, scratch: Path) -> LabelledRows:
    try:
        return read_labelled(predictor, path, scratch, EvaluationOptions())
    except DataError as error:
        raise _of_check(error) from error


def _numbers(records: Sequence[Record], name: str, labels: Sequence[str]) -> torch.Tensor:
    index = {label: number for number, label in enumerate(labels)}
    return torch.tensor([index[record[name]] for record in records])


def _truth(records: Sequence[Record], labels: Sequence[str]) -> torch.Tensor:
    return _numbers(records, "label", labels)


def _absent_labels(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    present = {record["label"] for record in records}
    return [label for label in labels if label not in present]


def _sentence(found: Checked, verdict: str, missing: Sequence[str]) -> str:
    """Return the result in plain words."""
    absent = f" They hold no row of {', '.join(missing[:5])}, of which this says nothing." if missing else ""
    of = f"{found.source_only:.3f} of {counted(found.rows, 'labelled row')}"
    if not verdict:
        return f"The source-only model stands, right on {of}; there is no other model to compare.{absent}"
    said = SENTENCES.get(verdict, "The choice is worse than the source-only model on these rows.")
    return (
        f"{said} Right on {found.chosen:.3f} and {of}: a difference of {found.difference:+.3f}, 95 % interval "
        f"{found.low:+.3f} to {found.high:+.3f}.{absent}"
    )
