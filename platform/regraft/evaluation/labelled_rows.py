"""The rows that a model is evaluated on: read and checked as in training, with the labels that the model knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from regraft.contracts import Task
from regraft.data.ingest import ingest_for_evaluation
from regraft.data.rows import Rows
from regraft.data.setting_names import with_names
from regraft.errors import DataError, RequestError
from regraft.serving.predictor import Predictor
from regraft.spec.document import absolute, problem
from regraft.spec.sections import DataSpec

_OPTIONS = {
    "data.labels allows": "the model knows",
    "data.bad_rows: skip": "--bad-rows skip",
    "data.columns": "--columns",
    "data.format": "--format",
}
"""Settings of the data floor under the names that this command has for them."""


@dataclass(frozen=True)
class LabelledRows:
    """Rows with their truths, by index."""

    rows: Rows
    path: str
    fingerprint: str
    """SHA-256 over the rows in their order, the task's key and its columns."""
    skipped: Mapping[str, Any]
    """Bad rows that were left out: `eval`, how many, and `rows`, the first in words."""
    columns: Mapping[str, str]
    """What the task's columns are called in the files."""


def read_labelled(
    predictor: Predictor,
    path: str,
    scratch: Path,
    *,
    columns: Mapping[str, str],
    form: Mapping[str, Any] | str | None,
    bad_rows: str,
) -> LabelledRows:
    """The rows at `path` (file, folder, glob or s3:// URL) as the model's task reads them, kept in `scratch`.

    What is not said by `columns` and `form` is as it was in the model's training. DataError names every row's problem;
    a label that the model does not know is one.
    """
    task = predictor.adapted.task
    spec = _data_spec(predictor, path, columns, form, bad_rows)
    try:
        gathered = ingest_for_evaluation(task, spec, scratch, lambda: predictor.adapted.context.processor)
    except DataError as error:
        raise DataError(with_names(error.message, _OPTIONS), error.where) from error
    rows = Rows(gathered.files["eval.arrow"], task.stored_columns())
    return LabelledRows(rows, path, gathered.fingerprint, gathered.skipped, spec.columns)


def _data_spec(
    predictor: Predictor, path: str, columns: Mapping[str, str], form: Mapping[str, Any] | str | None, bad_rows: str
) -> DataSpec:
    trained = predictor.fetched.spec.get("data") or {}
    known = predictor.adapted.task.input_columns()
    written: dict[str, Any] = {
        "train": absolute(path),
        "columns": {
            name: told for name, told in {**(trained.get("columns") or {}), **columns}.items() if name in known
        },
        "format": _format(form, trained.get("format")),
        "labels": predictor.labels or None,
        "bad_rows": bad_rows,
    }
    _refuse_unknown_columns(predictor.adapted.task, columns)
    try:
        return DataSpec.model_validate(written)
    except ValidationError as error:
        problems = "; ".join(problem(item, DataSpec, written) for item in error.errors())
        raise RequestError(problems, where="evaluate") from None


def _format(written: Mapping[str, Any] | str | None, trained: Any) -> Any:
    """`csv`, `{type: csv, ...}`; `auto` goes by the file's suffix, and nothing is as it was in training."""
    if written is None:
        return trained
    if not isinstance(written, str):
        return written
    if written == "auto":
        return None
    try:
        return yaml.safe_load(written)
    except yaml.YAMLError:
        raise RequestError(
            f"{written!r} is written; allowed are a source or {{type: source, ...}}", "--format"
        ) from None


def _refuse_unknown_columns(task: Task, columns: Iterable[str]) -> None:
    strange = [name for name in columns if name not in task.input_columns()]
    if strange:
        allowed = ", ".join(task.input_columns())
        told = f"{strange[0]!r} is no column of task {task.key()}, which reads {allowed}: write COLUMN=NAME-IN-THE-FILE"
        raise RequestError(told, where="--columns")
