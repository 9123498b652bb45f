"""The rows that a model is evaluated on: read and checked as in training, with the labels of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from regraft.contracts import Task
from regraft.data.base_reading import BaseReading
from regraft.data.ingest import ingest_for_evaluation
from regraft.data.rows import Rows
from regraft.data.setting_names import with_names
from regraft.errors import DataError, RequestError
from regraft.evaluation.options import EvaluationOptions
from regraft.serving.predictor import Predictor
from regraft.spec.column_names import Names, misnamed
from regraft.spec.document import absolute
from regraft.spec.problems import problems
from regraft.spec.sections import DataSpec
from regraft.spec.yaml_words import parse_yaml

_OPTIONS = {
    "data.labels allows": "the model knows",
    "data.bad_rows: skip": "--bad-rows skip",
    "data.columns": "--columns",
    "data.format": "--format",
}
"""Settings of `regraft.data`, with their names in this command."""


@dataclass(frozen=True)
class LabelledRows:
    """Rows with their target columns, by index."""

    rows: Rows
    path: str
    fingerprint: str
    """SHA-256 over the rows in order, the task's key and its columns."""
    skipped: Mapping[str, Any]
    """Bad rows that were left out: `eval`, their number, and `rows`, messages about the first ones."""
    columns: Mapping[str, Names]
    """The names of the task's columns in the files."""
    notes: tuple[str, ...] = ()
    """Sentences about what was passed over, and about rows that are usable but doubtful."""


def read_labelled(
    predictor: Predictor,
    path: str,
    scratch: Path,
    options: EvaluationOptions,
    *,
    labels: Sequence[str] | None = None,
) -> LabelledRows:
    """Read the rows at `path` (file, folder, glob or s3:// URL) for the model's task; a copy is kept in `scratch`.

    Columns and format that `options` do not give are those of the model's training. Raises DataError with the problem
    of every bad row; a label is one that is not among `labels`: those that the model knows, and none for any label.
    """
    task = predictor.adapted.task
    spec = _data_spec(predictor, path, options, tuple(predictor.labels if labels is None else labels))
    try:
        base = BaseReading(lambda: predictor.adapted.context.processor)
        gathered = ingest_for_evaluation(task, spec, scratch, base)
    except DataError as error:
        raise DataError(with_names(error.message, _OPTIONS), error.where) from error
    rows = Rows(gathered.files["eval.arrow"], task.stored_columns())
    return LabelledRows(rows, path, gathered.fingerprint, gathered.skipped, spec.columns, gathered.notes)


def _data_spec(predictor: Predictor, path: str, options: EvaluationOptions, labels: tuple[str, ...]) -> DataSpec:
    task, trained = predictor.adapted.task, predictor.fetched.spec.get("data") or {}
    _refuse_unknown_columns(task, options.columns)
    renamed = {**(trained.get("columns") or {}), **options.columns}
    written: dict[str, Any] = {
        "train": absolute(path),
        "columns": {name: in_file for name, in_file in renamed.items() if name in task.input_columns()},
        "format": _format(options.format, trained.get("format")),
        "labels": labels or None,
        "bad_rows": options.bad_rows,
    }
    try:
        return DataSpec.model_validate(written)
    except ValidationError as error:
        raise RequestError("; ".join(problems(error, DataSpec, written)), where="evaluate") from None


def _format(written: Mapping[str, Any] | str | None, trained: Any) -> Any:
    """Return the source to read with: `written` as YAML; None (the suffix decides) for `auto`; else training's."""
    if written is None:
        return trained
    if not isinstance(written, str):
        return written
    if written == "auto":
        return None
    try:
        return parse_yaml(written)
    except ValueError:
        raise RequestError(
            f"{written!r} is written; allowed are a source or {{type: source, ...}}", "--format"
        ) from None


def _refuse_unknown_columns(task: Task, columns: Mapping[str, Names]) -> None:
    unknown = [name for name in columns if name not in task.input_columns()]
    if unknown and columns[unknown[0]] in tuple(task.input_columns()):
        raise RequestError(str(misnamed(columns, task.input_columns())), where="--columns")
    if unknown:
        raise RequestError(
            f"{unknown[0]!r} is not a column of task {task.key()}, which reads {', '.join(task.input_columns())}: "
            "write COLUMN=NAME-IN-THE-FILE",
            where="--columns",
        )
