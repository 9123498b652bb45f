"""`regraft evaluate`, told in order: open the version, read the rows, run them, measure, write two files."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regraft.contracts import Progress, Record
from regraft.contracts.findings import Findings
from regraft.errors import DataError, RequestError, Unsupported
from regraft.evaluation.intervals import CONFIDENCE, Intervals, bootstrap, paired
from regraft.evaluation.labelled_rows import LabelledRows, read_labelled
from regraft.evaluation.measure import measure_rows
from regraft.evaluation.options import EvaluationOptions
from regraft.evaluation.page import page
from regraft.evaluation.worst_rows import WorstRows, worst_rows
from regraft.report.html import put
from regraft.serving.predictor import Predictor
from regraft.store.atomic_files import writing_here
from regraft.store.objects import ObjectStore
from regraft.units import finite
from regraft.version import VERSION

FORMAT = 1
JSON, HTML = "evaluation.json", "evaluation.html"
SEED = 0
_TOLD = 100
"""Rows left out that are told in words."""


@dataclass(frozen=True)
class EvaluationResult:
    """What came out: `document` is the content of evaluation.json."""

    document: dict[str, Any]
    json: Path
    html: Path


@dataclass(frozen=True)
class ModelResults:
    """One model's records and what they come to."""

    predictor: Predictor
    records: dict[int, Record]
    """By the row's index, in order."""
    metrics: dict[str, float]
    failed: dict[int, str]
    """Rows that could not be encoded, and why."""

    @property
    def listed(self) -> list[Record]:
        """The records in the rows' order."""
        return list(self.records.values())

    def again(self, records: Sequence[Record]) -> Mapping[str, float]:
        """The metrics of other records of this model."""
        return self.predictor.adapted.task.metrics(records, self.predictor.adapted.context)


def evaluate(
    store: ObjectStore,
    reference: str,
    data: str,
    output: Path,
    *,
    options: EvaluationOptions,
    plugins: Sequence[str | Path] = (),
    base: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> EvaluationResult:
    """Run the version that `reference` means on the labelled rows at `data`; write JSON and HTML into `output`.

    Raises NotFound, BaseError and the like for a version that cannot be opened; DataError for rows that do not fit.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    _refuse_file(output)
    opened = Predictor.open(store, reference, plugins=plugins, base=base, device=device)
    with tempfile.TemporaryDirectory(prefix="regraft-evaluate-") as scratch:
        with writing_here(Path(scratch)):
            labelled = read_labelled(
                opened,
                data,
                Path(scratch),
                columns=options.columns,
                form=options.format,
                bad_rows=options.bad_rows,
            )
        skip = options.bad_rows == "skip"
        mine = _measured(opened, labelled, progress, skip=skip)
        rival = None
        if options.against is not None:
            other = Predictor.open(store, options.against, plugins=plugins, device=device)
            _refuse_other_rows(opened, other)
            rival = _measured(other, labelled, progress, skip=skip)
        intervals = _intervals(mine, options, progress)
        shown = worst_rows(opened, labelled.rows, mine.records, options.worst)
    found = opened.adapted.task.findings(mine.listed, opened.adapted.context)
    document = _document(mine, labelled, intervals, found, shown, started)
    document["against"] = None if rival is None else _against(mine, rival, options, progress)
    document["seconds"] = round(time.monotonic() - began, 3)
    return _written(document, found, shown, output)


def _measured(predictor: Predictor, labelled: LabelledRows, progress: Progress | None, *, skip: bool) -> ModelResults:
    found = measure_rows(predictor, labelled.rows, progress, skip=skip)
    if not found.records:
        raise DataError(f"no row can be used: {next(iter(found.failed.values()))}", where=labelled.path)
    task, context = predictor.adapted.task, predictor.adapted.context
    metrics = {name: float(value) for name, value in task.metrics(list(found.records.values()), context).items()}
    return ModelResults(predictor, found.records, metrics, found.failed)


def _intervals(mine: ModelResults, options: EvaluationOptions, progress: Progress | None) -> Intervals:
    return bootstrap(
        mine.again, mine.listed, resamples=options.resamples, budget_s=options.seconds, seed=SEED, progress=progress
    )


def _against(
    mine: ModelResults, rival: ModelResults, options: EvaluationOptions, progress: Progress | None
) -> dict[str, Any]:
    """The other model's metrics, and how much better this one is on the same rows."""
    both = [row for row in mine.records if row in rival.records]
    apart = paired(
        (mine.again, rival.again),
        ([mine.records[row] for row in both], [rival.records[row] for row in both]),
        resamples=options.resamples,
        budget_s=options.seconds,
        seed=SEED,
        progress=progress,
    )
    version = rival.predictor.fetched.version
    return {
        "model": version.name,
        "version": version.version,
        "id": version.id,
        "metrics": rival.metrics,
        "difference": {name: value - rival.metrics[name] for name, value in mine.metrics.items()},
        "intervals": {name: {"low": low, "high": high} for name, (low, high) in apart.bounds.items()},
        "resamples": apart.resamples,
        "note": apart.note,
    }


def _document(
    mine: ModelResults,
    labelled: LabelledRows,
    intervals: Intervals,
    found: Findings,
    shown: WorstRows,
    started: datetime,
) -> dict[str, Any]:
    predictor = mine.predictor
    version, meta, task = predictor.fetched.version, predictor.meta, predictor.adapted.task
    return {
        "format": FORMAT,
        "model": version.name,
        "version": version.version,
        "id": version.id,
        "delta_sha256": meta.get("delta_sha256"),
        "base": {"reference": meta["base"]["reference"], "hash": meta["base"]["hash"]},
        "task": meta["task"],
        "method": meta["method"],
        "labels": list(predictor.labels),
        "data": {
            "path": labelled.path,
            "rows": len(mine.records),
            "skipped": _skipped(labelled, mine),
            "fingerprint": labelled.fingerprint,
            "columns": dict(labelled.columns),
        },
        "started": started.isoformat(timespec="seconds"),
        "device": str(predictor.device),
        "regraft": VERSION,
        "score": {"name": task.score.name, "mode": task.score.mode},
        "metrics": mine.metrics,
        "intervals": {name: {"low": low, "high": high} for name, (low, high) in intervals.bounds.items()},
        "bootstrap": {
            "method": "percentile",
            "confidence": CONFIDENCE,
            "resamples": intervals.resamples,
            "seed": SEED,
            "note": intervals.note,
        },
        "notes": _notes(predictor),
        "recorded": {"metrics": dict(meta.get("metrics") or {}), "baselines": dict(meta.get("baselines") or {})},
        "findings": asdict(found),
        "wrong": shown.wrong,
        "worst": [
            {"row": item.row, "file": item.file, "error": item.error, "answer": item.answer} for item in shown.row_views
        ],
    }


def _notes(predictor: Predictor) -> list[str]:
    """What sets figures here apart from those that training measured."""
    training = predictor.fetched.spec.get("training") or {}
    changed = {
        "class weights": training.get("class_weights", "none") != "none",
        "label smoothing": bool(training.get("label_smoothing")),
    }
    told = " and ".join(name for name, used in changed.items() if used)
    return [f"The loss here is plain; training's own has {told} in it"] if told else []


def _skipped(labelled: LabelledRows, mine: ModelResults) -> dict[str, Any]:
    """Rows that were left out when they were read, and when they were encoded: how many, and the first in words."""
    told = [*labelled.skipped.get("rows", ()), *mine.failed.values()]
    count = labelled.skipped.get("eval", 0) + len(mine.failed)
    return {"count": count, "rows": told[:_TOLD]} if count else {}


def _written(document: dict[str, Any], found: Findings, shown: WorstRows, output: Path) -> EvaluationResult:
    plain = finite(document)
    shown_as = page(plain, found, shown)
    with writing_here(output):
        output.mkdir(parents=True, exist_ok=True)
        put(output / JSON, json.dumps(plain, ensure_ascii=False, indent=1, allow_nan=False, default=str) + "\n")
        put(output / HTML, shown_as)
    return EvaluationResult(plain, output / JSON, output / HTML)


def _refuse_file(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise RequestError("is a file; write a folder, which is made if it is not there", where=str(output))


def _refuse_other_rows(mine: Predictor, other: Predictor) -> None:
    """Two models are compared on rows that both read alike, by the same metrics."""
    one, two = mine.adapted.task, other.adapted.task
    where = "--against"
    if one.packs or two.packs:
        raise Unsupported("rows that a task packs depend on the tokenizer: evaluate each model by itself", where)
    if dict(one.input_columns()) != dict(two.input_columns()) or one.score != two.score:
        told = f"{other.name} answers task {two.key()} and {mine.name} task {one.key()}: allowed is a model of the same"
        raise Unsupported(told, where)
    unknown = [label for label in mine.labels if label not in other.labels]
    if unknown:
        raise Unsupported(f"{other.name} does not know the label {unknown[0]!r}, which {mine.name} knows", where)
