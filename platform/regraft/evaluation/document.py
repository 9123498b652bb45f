"""The content of evaluation.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from regraft.contracts.findings import Findings, OtherForm
from regraft.evaluation.baseline_comparison import baseline_text, baseline_verdicts_here
from regraft.evaluation.labelled_rows import LabelledRows
from regraft.evaluation.measure import Measurement
from regraft.evaluation.training_rows import SeenRows
from regraft.evaluation.worst_rows import WorstRows
from regraft.report.intervals import CONFIDENCE, Intervals
from regraft.serving.predictor import Predictor
from regraft.units import finite
from regraft.version import VERSION

FORMAT = 1
SEED = 0
_MAX_SKIPPED = 100
"""Number of rows left out whose messages are listed."""


@dataclass(frozen=True)
class Comparison:
    """Another model on the same rows; `differences` are intervals of this model's metrics minus the other's."""

    measurement: Measurement
    differences: Intervals


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation computes."""

    labelled: LabelledRows
    measurement: Measurement
    intervals: Intervals
    comparison: Comparison | None
    findings: Findings
    worst: WorstRows
    seen: SeenRows
    started: datetime
    seconds: float
    other_form: OtherForm | None = None
    """Metrics of the rows asked in another form, such as plain text in place of words."""
    cut: tuple[str, ...] = ()
    """Sentences about texts that are longer than what is read."""

    def document(self) -> dict[str, Any]:
        """Return the content of evaluation.json: JSON values only, with None for NaN and infinity."""
        predictor = self.measurement.predictor
        content = {
            **model_facts(predictor),
            "data": self._data(),
            "started": self.started.isoformat(timespec="seconds"),
            "device": str(predictor.device),
            "regraft": VERSION,
            **self._metrics(),
            "notes": [
                *_notes(predictor),
                *self.labelled.notes,
                *self.cut,
                *_form_notes(self.other_form),
                *([self.seen.text] if self.seen.doubtful else []),
            ],
            "overlap": self.seen.document(),
            "recorded": _recorded(predictor.meta),
            "beside_baselines": self._beside_baselines(),
            "findings": asdict(self.findings),
            "wrong": self.worst.wrong,
            "worst": [
                {"row": view.row, "file": view.file, "error": view.error, "answer": view.answer}
                for view in self.worst.row_views
            ],
            **({"other_form": _form(self.other_form)} if self.other_form else {}),
            "against": None if self.comparison is None else _against(self.measurement, self.comparison),
            "seconds": self.seconds,
        }
        return {name: finite(value) for name, value in content.items()}

    def _data(self) -> dict[str, Any]:
        return {
            "path": self.labelled.path,
            "rows": len(self.measurement.records),
            "skipped": _skipped(self.labelled, self.measurement),
            "fingerprint": self.labelled.fingerprint,
            "columns": dict(self.labelled.columns),
        }

    def _beside_baselines(self) -> dict[str, Any]:
        """Return the verdicts about the score, and as sentences."""
        predictor, same = self.measurement.predictor, self.seen.same
        score = predictor.adapted.task.score
        verdicts = baseline_verdicts_here(
            predictor.meta,
            {"name": score.name, "mode": score.mode},
            self.measurement.metrics[score.name],
            self.intervals,
            same_rows=same,
        )
        text = baseline_text(verdicts, score.name, same_rows=same)
        return {"sentence": text, "verdicts": [verdict.document() for verdict in verdicts]}

    def _metrics(self) -> dict[str, Any]:
        score = self.measurement.predictor.adapted.task.score
        return {
            "score": {"name": score.name, "mode": score.mode},
            "metrics": self.measurement.metrics,
            "intervals": _bounds(self.intervals),
            "bootstrap": {
                "method": "percentile",
                "confidence": CONFIDENCE,
                "resamples": self.intervals.resamples,
                "seed": SEED,
                "note": self.intervals.note,
            },
        }


def model_facts(predictor: Predictor) -> dict[str, Any]:
    """Return what identifies the version that was evaluated."""
    version, meta = predictor.fetched.version, predictor.meta
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
    }


def _against(ours: Measurement, comparison: Comparison) -> dict[str, Any]:
    """Return the other model's metrics, and the differences from them on the rows that both could encode."""
    other, differences = comparison.measurement, comparison.differences
    version = other.predictor.fetched.version
    return {
        "model": version.name,
        "version": version.version,
        "id": version.id,
        "metrics": other.metrics,
        "difference": {name: value - other.metrics[name] for name, value in ours.metrics.items()},
        "intervals": _bounds(differences),
        "resamples": differences.resamples,
        "note": differences.note,
    }


def _bounds(intervals: Intervals) -> dict[str, dict[str, float]]:
    return {name: {"low": low, "high": high} for name, (low, high) in intervals.bounds.items()}


def _recorded(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what training recorded with the version."""
    return {"metrics": dict(meta.get("metrics") or {}), "baselines": dict(meta.get("baselines") or {})}


def _notes(predictor: Predictor) -> list[str]:
    """Return how the metrics here differ in definition from those recorded at training."""
    training = predictor.fetched.spec.get("training") or {}
    changed = {
        "class weights": training.get("class_weights", "none") != "none",
        "label smoothing": bool(training.get("label_smoothing")),
    }
    names = " and ".join(name for name, used in changed.items() if used)
    return [f"The loss here is plain; the loss of training includes {names}"] if names else []


def _form(form: OtherForm) -> dict[str, Any]:
    return {"name": form.name, "metrics": dict(form.metrics)}


def _form_notes(form: OtherForm | None) -> list[str]:
    return [form.note] if form else []


def _skipped(labelled: LabelledRows, measurement: Measurement) -> dict[str, Any]:
    """Return the number of rows that were left out (bad when read, or impossible to encode), and the first messages."""
    messages = [*labelled.skipped.get("rows", ()), *measurement.failed.values()]
    count = labelled.skipped.get("eval", 0) + len(measurement.failed)
    return {"count": count, "rows": messages[:_MAX_SKIPPED]} if count else {}
