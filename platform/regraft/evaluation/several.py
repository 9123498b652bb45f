"""`regraft evaluate` of several models: all on the same rows, and paired differences of each from the first."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regraft.contracts import Progress, Score
from regraft.errors import RequestError, Unsupported
from regraft.evaluation import evaluate as one_model
from regraft.evaluation.document import FORMAT, SEED
from regraft.evaluation.evaluate import HTML, JSON, EvaluationResult, refuse_file
from regraft.evaluation.labelled_rows import LabelledRows, read_labelled
from regraft.evaluation.options import EvaluationOptions
from regraft.evaluation.several_page import several_page
from regraft.evaluation.shared_pass import GroupRecords, groups_of, measure_group
from regraft.evaluation.training_rows import SeenRows, seen_rows
from regraft.report.html import put
from regraft.report.intervals import CONFIDENCE, Bootstrap, Metrics
from regraft.report.score_draws import ScoreDraws, draw_scores
from regraft.serving.predictor import Predictor
from regraft.store.atomic_files import writing_locally
from regraft.store.baseline_verdicts import compare
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version
from regraft.units import finite
from regraft.version import VERSION

METHOD = "percentile of each; differences from the first model simultaneously, by the largest studentised difference"


def versions_of(store: ObjectStore, models: str | Sequence[str]) -> list[str]:
    """Return the versions that one or several references mean. Raises RequestError where none is named."""
    registry = Registry(store)
    named = [models] if isinstance(models, str) else list(models)
    if not named:
        raise RequestError("no model is named: name at least one", where="evaluate")
    return [str(registry.version(*registry.parse(one))) for one in named]


def evaluate_models(
    store: ObjectStore,
    versions: Sequence[str],
    data: str,
    *,
    options: EvaluationOptions,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Evaluate one version, or compare several."""
    if len(versions) == 1:
        return one_model.evaluate(store, versions[0], data, options=options, progress=progress)
    return evaluate_several(store, versions, data, options=options, progress=progress)


@dataclass(frozen=True)
class _OneModel:
    """A model's records, and what the document says of it; the model itself is not kept."""

    version: Version
    group: GroupRecords
    metrics_of: Metrics
    seen: SeenRows


def evaluate_several(
    store: ObjectStore,
    references: Sequence[str],
    data: str,
    *,
    options: EvaluationOptions,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Evaluate versions on the same labelled rows at `data`; write JSON and HTML.

    Raises RequestError for a model that is named twice, and Unsupported for models whose answers cannot be compared.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    refuse_file(options.output)
    versions = _versions(store, references)
    for version in versions[1:]:
        _refuse_other_labels(versions[0], version)
    with tempfile.TemporaryDirectory(prefix="regraft-evaluate-") as scratch:
        first = _open(store, versions[0], options)
        with writing_locally(Path(scratch)):
            labelled = read_labelled(first, data, Path(scratch), options)
        models = _measured(versions, first, labelled, _Means(store, options, progress))
        common = _common_rows(models)
        score = first.adapted.task.score
        drawn = draw_scores(
            [(one.metrics_of, [one.group.records[row] for row in common]) for one in models],
            score.name,
            Bootstrap(options.resamples, options.seconds, SEED),
            progress=progress,
        )
        facts = {
            "format": FORMAT,
            "regraft": VERSION,
            "started": started.isoformat(timespec="seconds"),
            "device": str(first.device),
            "data": _data(labelled, models, len(common)),
            "score": {"name": score.name, "mode": score.mode},
        }
        document = {**facts, **_results(models, common, drawn, score)}
        document["seconds"] = round(time.monotonic() - began, 3)
    return _write({name: finite(value) for name, value in document.items()}, options.output)


@dataclass(frozen=True)
class _Means:
    store: ObjectStore
    options: EvaluationOptions
    progress: Progress | None


def _versions(store: ObjectStore, references: Sequence[str]) -> list[Version]:
    registry = Registry(store)
    versions = [registry.version(*registry.parse(reference)) for reference in references]
    names = list(map(str, versions))
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"{twice} is named twice: name each model once", where="evaluate")
    return versions


def _open(store: ObjectStore, version: Version, options: EvaluationOptions) -> Predictor:
    return Predictor.open(store, str(version), plugins=options.plugins, base=options.base, device=options.device)


def _measured(versions: Sequence[Version], first: Predictor, labelled: LabelledRows, means: _Means) -> list[_OneModel]:
    """Measure all versions; those of one pass are in memory together, and no others."""
    found: dict[int, _OneModel] = {}
    for group in groups_of(versions):
        predictors = [first if at == 0 else _open(means.store, versions[at], means.options) for at in group]
        for predictor in predictors:
            refuse_other_answers(first, predictor)
        records = measure_group(predictors, labelled, means.progress, skip=means.options.bad_rows == "skip")
        for at, predictor, one in zip(group, predictors, records, strict=True):
            metrics_of = _metrics_of(predictor)
            found[at] = _OneModel(versions[at], one, metrics_of, seen_rows(means.store, predictor, labelled))
    return [found[at] for at in range(len(versions))]


def _metrics_of(predictor: Predictor) -> Metrics:
    task, context = predictor.adapted.task, predictor.adapted.context
    return lambda records: task.metrics(records, context)


def _refuse_other_labels(first: Version, other: Version) -> None:
    """Raise Unsupported for models of other labels, before one is loaded."""
    ours, theirs = ({str(label) for label in one.meta.get("labels") or ()} for one in (first, other))
    if ours != theirs:
        apart = sorted(ours ^ theirs)[0]
        raise Unsupported(
            f"{first} and {other} have other labels: {apart!r} is known to {first if apart in ours else other} alone. "
            "Compare models of the same labels, and evaluate the others by themselves",
            where="evaluate",
        )


def refuse_other_answers(predictor: Predictor, other: Predictor) -> None:
    """Raise Unsupported unless both models read rows in the same way and have the same score."""
    task, other_task = predictor.adapted.task, other.adapted.task
    if other is not predictor and (task.packs or other_task.packs):
        raise Unsupported("rows that a task packs depend on the tokenizer: evaluate each model separately", "evaluate")
    if dict(task.input_columns()) != dict(other_task.input_columns()) or task.score != other_task.score:
        raise Unsupported(
            f"{other.name} has task {other_task.key()} and {predictor.name} task {task.key()}: compare models of the "
            "same task",
            where="evaluate",
        )


def _common_rows(models: Sequence[_OneModel]) -> list[int]:
    """Return the rows that all models could encode."""
    common = set(models[0].group.records).intersection(*(one.group.records for one in models[1:]))
    if not common:
        raise Unsupported("no row can be encoded by all of these models", where="evaluate")
    return sorted(common)


def _data(labelled: LabelledRows, models: Sequence[_OneModel], rows: int) -> dict[str, Any]:
    failed = {row: text for one in models for row, text in one.group.failed.items()}
    messages = [*labelled.skipped.get("rows", ()), *failed.values()]
    skipped = labelled.skipped.get("eval", 0) + len(labelled.rows) - rows
    return {
        "path": labelled.path,
        "rows": rows,
        "skipped": {"count": skipped, "rows": messages[:100]} if skipped else {},
        "fingerprint": labelled.fingerprint,
        "columns": dict(labelled.columns),
        "notes": list(labelled.notes),
    }


def _results(models: Sequence[_OneModel], rows: Sequence[int], drawn: ScoreDraws, score: Score) -> dict[str, Any]:
    """Return each model's figures, the differences from the first, and how they were computed."""
    together = drawn.simultaneous()
    names = [str(one.version) for one in models]
    bounds = {name: _ends(found) for name, found in zip(names[1:], together[1:], strict=True)}
    values = {name: float(value) for name, value in zip(names[1:], drawn.values[1:], strict=True)}
    verdicts = compare({"name": score.name, "mode": score.mode}, float(drawn.values[0]), values, bounds)
    return {
        "models": [_model(one, rows, _ends(drawn.interval(at))) for at, one in enumerate(models)],
        "differences": [
            {
                "model": found.baseline,
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "alone": _ends(drawn.difference(0, at)),
                "first_is": found.outcome,
            }
            for at, found in enumerate(verdicts, 1)
        ],
        "bootstrap": {
            "method": METHOD,
            "confidence": CONFIDENCE,
            "resamples": len(drawn.draws),
            "seed": SEED,
            "note": drawn.note,
        },
    }


def _model(one: _OneModel, rows: Sequence[int], interval: dict[str, float] | None) -> dict[str, Any]:
    meta = one.version.meta
    return {
        "model": one.version.name,
        "version": one.version.version,
        "id": one.version.id,
        "base": {"reference": meta["base"]["reference"], "hash": meta["base"]["hash"]},
        "method": meta["method"],
        "metrics": {name: float(value) for name, value in one.metrics_of(_of(one, rows)).items()},
        "interval": interval,
        "overlap": one.seen.document(),
        "shares": one.group.shares,
        "delta_bytes": meta.get("delta_bytes"),
    }


def _of(one: _OneModel, rows: Sequence[int]) -> list[Any]:
    return [one.group.records[row] for row in rows]


def _ends(bounds: tuple[float, float] | None) -> dict[str, float] | None:
    return None if bounds is None else {"low": bounds[0], "high": bounds[1]}


def _write(document: dict[str, Any], output: Path) -> EvaluationResult:
    html = several_page(document)
    with writing_locally(output):
        output.mkdir(parents=True, exist_ok=True)
        put(output / JSON, json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False, default=str) + "\n")
        put(output / HTML, html)
    return EvaluationResult(document, output / JSON, output / HTML)
