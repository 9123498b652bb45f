"""The steps of `regraft evaluate`: open the version, read the rows, measure, compute intervals, write two files."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regraft.contracts import Findings, OtherForm, Progress, Row, Table
from regraft.data.row_sample import cut_notes
from regraft.errors import RequestError, Unsupported
from regraft.evaluation.document import SEED, Comparison, Evaluation
from regraft.evaluation.labelled_rows import LabelledRows, read_labelled
from regraft.evaluation.measure import Measurement, measure
from regraft.evaluation.options import EvaluationOptions
from regraft.evaluation.page import page
from regraft.evaluation.training_rows import seen_rows
from regraft.evaluation.worst_rows import worst_rows
from regraft.report.html import put
from regraft.report.intervals import Bootstrap, bootstrap, paired
from regraft.serving.predictor import Predictor
from regraft.store.atomic_files import writing_locally
from regraft.store.objects import ObjectStore

JSON, HTML = "evaluation.json", "evaluation.html"


@dataclass(frozen=True)
class EvaluationResult:
    """The files of an evaluation; `document` is the content of evaluation.json."""

    document: dict[str, Any]
    json: Path
    html: Path


def evaluate(
    store: ObjectStore,
    reference: str,
    data: str,
    *,
    options: EvaluationOptions,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Evaluate the version `reference` on the labelled rows at `data`; write JSON and HTML.

    `progress` receives RowsEvaluated and Resampled events. Raises NotFound, BaseError or another error when the version
    cannot be opened, and DataError when the rows do not fit the model.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    refuse_file(options.output)
    predictor = Predictor.open(store, reference, plugins=options.plugins, base=options.base, device=options.device)
    with tempfile.TemporaryDirectory(prefix="regraft-evaluate-") as scratch:
        with writing_locally(Path(scratch)):
            labelled = read_labelled(predictor, data, Path(scratch), options)
        ours = measure(predictor, labelled, progress, skip=options.bad_rows == "skip")
        other = _other_model(store, ours, labelled, options=options, progress=progress)
        form = _other_form(ours, labelled)
        task, context = predictor.adapted.task, predictor.adapted.context
        evaluation = Evaluation(
            labelled,
            ours,
            intervals=bootstrap(ours.metrics_of, ours.record_list, _bootstrap(options), progress=progress),
            worst=worst_rows(predictor, labelled.rows, ours.records, options.worst),
            findings=_with_form(task.findings(ours.record_list, context), form, ours),
            comparison=None if other is None else _compare(ours, other, options, progress),
            seen=seen_rows(store, predictor, labelled),
            other_form=form,
            cut=tuple(cut_notes(task, labelled.rows, context, "evaluated")),
            started=started,
            seconds=round(time.monotonic() - began, 3),
        )
    return _write(evaluation, options.output)


def _other_form(ours: Measurement, labelled: LabelledRows) -> OtherForm | None:
    """Measure the rows in the task's other form, such as plain text in place of words."""
    predictor = ours.predictor

    def ask(rows: Sequence[Row]) -> list[Any]:
        return predictor.predict(list(rows))

    return predictor.adapted.task.other_form((labelled.rows.stored(row) for row in ours.records), ask)


def _with_form(findings: Findings, form: OtherForm | None, ours: Measurement) -> Findings:
    """Return the findings with a table that compares the two forms in which the rows were asked."""
    if form is None:
        return findings
    names = tuple(name for name in form.metrics if name in ours.metrics)
    rows: list[tuple[str | int | float | None, ...]] = []
    for row, metrics in (("as evaluated", ours.metrics), (form.name, form.metrics)):
        rows.append((row, *(metrics[name] for name in names)))
    return replace(
        findings, tables=(*findings.tables, Table("Forms of a request", ("form", *names), tuple(rows), form.note))
    )


def _bootstrap(options: EvaluationOptions) -> Bootstrap:
    return Bootstrap(options.resamples, options.seconds, SEED)


def _other_model(
    store: ObjectStore,
    ours: Measurement,
    labelled: LabelledRows,
    *,
    options: EvaluationOptions,
    progress: Progress | None,
) -> Measurement | None:
    """Measure the model `options.against` on the same rows; None if it is not given."""
    if options.against is None:
        return None
    predictor = Predictor.open(store, options.against, plugins=options.plugins, device=options.device)
    _refuse_other_rows(ours.predictor, predictor)
    return measure(predictor, labelled, progress, skip=options.bad_rows == "skip")


def _compare(
    ours: Measurement, other: Measurement, options: EvaluationOptions, progress: Progress | None
) -> Comparison:
    """Compute intervals of the differences between two models, on the rows that both could encode."""
    common = [row for row in ours.records if row in other.records]
    differences = paired(
        (ours.metrics_of, other.metrics_of),
        ([ours.records[row] for row in common], [other.records[row] for row in common]),
        _bootstrap(options),
        progress=progress,
    )
    return Comparison(other, differences)


def _write(evaluation: Evaluation, output: Path) -> EvaluationResult:
    document = evaluation.document()
    html = page(document, evaluation.findings, evaluation.worst)
    with writing_locally(output):
        output.mkdir(parents=True, exist_ok=True)
        put(output / JSON, json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False, default=str) + "\n")
        put(output / HTML, html)
    return EvaluationResult(document, output / JSON, output / HTML)


def refuse_file(output: Path) -> None:
    """Raise RequestError for an output folder that is a file."""
    if output.exists() and not output.is_dir():
        raise RequestError("is a file; write the name of a folder, which may not exist yet", where=str(output))


def _refuse_other_rows(predictor: Predictor, other: Predictor) -> None:
    """Raise Unsupported unless both models read rows in the same way and have the same score and labels."""
    task, other_task = predictor.adapted.task, other.adapted.task
    where = "--against"
    if task.packs or other_task.packs:
        raise Unsupported("rows that a task packs depend on the tokenizer: evaluate each model separately", where)
    if dict(task.input_columns()) != dict(other_task.input_columns()) or task.score != other_task.score:
        raise Unsupported(
            f"{other.name} has task {other_task.key()} and {predictor.name} task {task.key()}: "
            "compare models of the same task",
            where,
        )
    unknown = [label for label in predictor.labels if label not in other.labels]
    if unknown:
        raise Unsupported(f"{other.name} lacks the label {unknown[0]!r}, which {predictor.name} has", where)
