"""Registration of a trained run: its best checkpoint becomes a version of the model."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from regraft.bases.load import processor_files
from regraft.bases.locate import Base
from regraft.contracts import Note, Progress, Registered, Score
from regraft.data.kept_features import FILE
from regraft.errors import Damaged, NotFound, RunError
from regraft.spec.run import RunSpec
from regraft.store.baseline_verdicts import recorded_verdicts, sentence
from regraft.store.card import model_card
from regraft.store.checkpoints import Checkpoints, SavedCheckpoint, ranked
from regraft.store.comparisons import read_comparison
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version
from regraft.store.runs import Runs
from regraft.store.version_scores import better_version, newest_version
from regraft.training.advice import run_advice
from regraft.training.auto_values import with_numbers_of
from regraft.training.eval_features import kept_features
from regraft.training.evaluate import gain
from regraft.training.job import Job, RunState
from regraft.training.name_checks import base_family
from regraft.training.prepare import PreparedRun, base_bytes, base_of, find_document, pinned_reference
from regraft.training.run_outcome import with_command_seconds
from regraft.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a finished run."""

    model: str
    version: str
    run: str
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    seconds: float
    """Wall time of this command; the run's training time if it was finished before."""
    store: str
    score: str
    gain: dict[str, Any] | None = None
    """Gain in score over the nearest centroid: `mean`, and the 95 % interval from `low` to `high`."""
    verdicts: str = ""
    """The score beside the baselines as a sentence; empty where there are none."""
    delta_bytes: int = 0
    base_bytes: int = 0
    already: bool = False
    """Whether the run was finished before this command."""
    note: str = ""
    """What to know where an earlier version of the model scores better."""
    advice: str = ""
    """What to try next, where a baseline is better than this run."""
    test: dict[str, Any] | None = None
    """The result on the test rows: `rows`, `metrics` and `intervals`; None where the spec names none."""
    comparison: dict[str, Any] | None = None
    """The model beside its controls; None where it was not compared."""

    def document(self) -> dict[str, Any]:
        """Return the outcome as `--json` prints it."""
        document = asdict(self)
        if self.comparison is None:
            del document["comparison"]
        return document


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A trained run: its job and base, its best checkpoint, and its documents."""

    job: Job
    base: Base
    best: SavedCheckpoint
    delta: bytes
    """The delta of the best checkpoint, as a safetensors file."""
    state: RunState
    """The state of the last checkpoint."""
    document: Mapping[str, Any]
    """The run's document: its fields about rows, notes and baselines become metadata of the version."""
    features: bytes | None = None
    """What the head reads of evaluation rows, as the file that the version keeps; None where it is not known."""


def register(prepared: PreparedRun, more: Mapping[str, Any] | None = None) -> Outcome:
    """Register the best checkpoint of a trained run as a model version, and return the run's outcome.

    `more` are further entries of the version's metadata.
    """
    store, spec, job, progress = prepared.store, prepared.spec, prepared.job, prepared.log
    checkpoints, runs = Checkpoints(store, job.run), Runs(store)
    document = find_document(runs, job.run) or {}
    measured = bool((document.get("rows") or {}).get("eval", 1))
    best, delta = best_delta(checkpoints, spec.task.score, progress, measured=measured)
    features = kept_features(runs, job.run, best.step)
    trained = TrainedRun(job, base_of(store, spec, job), best, delta, last_state(checkpoints), document, features)
    meta = version_meta(spec, trained) | dict(more or {})
    better = better_version(newest_version(Registry(store), spec.name), meta)
    version = publish(store, spec, trained, meta)
    runs.update(
        job.run,
        state="registered",
        version=version.version,
        step=trained.state.step,
        gain=meta["gain"],
        metrics=meta["metrics"],
        score=meta["score"],
        seconds=meta["seconds"],
        spent_s=prepared.clock.spent_s(job),
        **_times_of(prepared, document),
    )
    progress(Registered(spec.name, version.version))
    return Outcome(
        model=spec.name,
        version=version.version,
        run=job.run,
        metrics=meta["metrics"],
        baselines=meta["baselines"],
        seconds=time.monotonic() - prepared.started,
        store=spec.store,
        score=spec.task.score.name,
        gain=meta["gain"],
        verdicts=beside_baselines(meta),
        delta_bytes=len(delta),
        base_bytes=base_bytes(trained.base),
        note=better.text(str(version), spec.task.score.name) if better else "",
        test=meta.get("test"),
        advice=run_advice(spec, meta["metrics"], meta["baselines"], runs.metric_lines(job.run)),
    )


def _times_of(prepared: PreparedRun, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome with the time of this command; nothing where others took a part of the run."""
    if prepared.job.spent:
        return {}
    return with_command_seconds(document, max(0.0, time.monotonic() - prepared.started - prepared.clock.paused_s))


def publish(store: ObjectStore, spec: RunSpec, trained: TrainedRun, meta: dict[str, Any]) -> Version:
    """Register a trained run's delta as the next version of the spec's model."""
    contents: dict[str, Any] = {
        "delta.safetensors": trained.delta,
        "spec.yaml": spec.dump().encode(),
        "card.md": model_card(meta, spec.model_dump(mode="json")).encode(),
        **{f"processor/{path.name}": path for path in processor_files(trained.base)},
        **({FILE: trained.features} if trained.features else {}),
    }
    return Registry(store).publish(spec.name, contents, meta)


def best_delta(
    checkpoints: Checkpoints, score: Score, progress: Progress | None, *, measured: bool = True
) -> tuple[SavedCheckpoint, bytes]:
    """Return the best evaluated checkpoint whose files verify, the earliest of equals, and its delta.

    Of a run without evaluation rows, not `measured`, the newest one. Raises RunError when there is none.
    """
    valid = checkpoints.valid()
    for saved in ranked(valid, score.name, score.mode) if measured else reversed(valid):
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            try:
                return saved, (checkpoints.open(saved, Path(folder)) / "delta.safetensors").read_bytes()
            except Damaged as error:
                log.warning("%s", error)
                if progress is not None:
                    message = f"a damaged checkpoint is skipped; the next best is registered: {error}"
                    progress(Note(message))
    raise RunError(
        "no evaluated checkpoint of this run is intact; --fresh trains it from the beginning", where=checkpoints.run
    )


def last_state(checkpoints: Checkpoints) -> RunState:
    """Return the state of the newest valid checkpoint; a new state if there is none."""
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        found = checkpoints.latest(Path(folder), lambda error: log.warning("%s", error))
        return RunState.read((found[1] / "state.json").read_bytes()) if found else RunState()


def version_meta(spec: RunSpec, trained: TrainedRun) -> dict[str, Any]:
    """Return the metadata of a version: task, method, base, metrics, baselines, lineage and versions of libraries."""
    job, base, best, document = trained.job, trained.base, trained.best, trained.document
    counts = document.get("rows", {})
    over_baseline = gain(counts.get("eval", 0), trained.state.best_correct, document.get("baseline_correct", ""))
    over_majority = gain(counts.get("eval", 0), trained.state.best_correct, document.get("majority_correct", ""))
    return {
        "name": spec.name,
        "task": job.spec["task"],
        "method": job.spec["method"],
        "labels": list(job.labels),
        "dropout": spec.training.dropout,
        "base": {
            "reference": pinned_reference(base),
            "hash": base.hash,
            "processor_hash": base.processor_hash,
            "family": base_family(base),
            "bytes": base_bytes(base),
        },
        "metrics": best.meta["metrics"],
        **_test_of(document, best),
        "baselines": document.get("baselines", {}),
        "gain": over_baseline,
        **({"gains": {"majority": over_majority}} if over_majority else {}),
        "score": {"name": spec.task.score.name, "mode": spec.task.score.mode},
        "seed": spec.training.seed,
        "lineage": {
            "run": job.run,
            "checkpoint": best.prefix,
            **({"soup": best.meta["soup"]} if best.meta.get("soup") else {}),
            "data": {"fingerprint": job.fingerprint, "rows": counts, **_remarks_of(document)},
            "parent": base.ancestors[0] if base.ancestors else None,
            **({"ancestors": list(base.ancestors)} if base.ancestors else {}),
        },
        "delta_sha256": hashlib.sha256(trained.delta).hexdigest(),
        "delta_bytes": len(trained.delta),
        "seconds": trained.state.seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"regraft": VERSION, "torch": installed("torch"), "transformers": installed("transformers")},
    }


def beside_baselines(meta: Mapping[str, Any]) -> str:
    """Return a version's score beside the baselines as a sentence; empty where there are none."""
    return sentence(recorded_verdicts(meta), str((meta.get("score") or {}).get("name", "")))


def _remarks_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's document says of its rows: doubts, rows left out, and the overlap of the sides."""
    skipped = document.get("skipped") or {}
    found = {
        "notes": list(document.get("notes") or ()),
        "skipped": {side: skipped[side] for side in ("train", "eval", "test") if skipped.get(side)},
    }
    overlaps = {name: document.get(name) for name in ("overlap", "test_overlap")}
    return {
        **{name: value for name, value in found.items() if value},
        **{name: value for name, value in overlaps.items() if value is not None},
    }


def _test_of(document: Mapping[str, Any], best: SavedCheckpoint) -> dict[str, Any]:
    """Return the result on the test rows as an entry of the metadata; none where another checkpoint was measured."""
    test = document.get("test") or {}
    return {"test": dict(test)} if test.get("checkpoint") == best.prefix else {}


def registered_outcome(store: ObjectStore, spec: RunSpec, run: str, known: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a run that was registered before; raises NotFound when its version is gone."""
    try:
        version = Registry(store).version(spec.name, str(known["version"]))
    except NotFound as error:
        raise NotFound(f"run {run} is finished, but its version is gone ({error}); --fresh trains another") from None
    meta = version.meta
    return Outcome(
        model=spec.name,
        version=version.version,
        run=run,
        metrics=meta["metrics"],
        baselines=meta["baselines"],
        seconds=float(meta["seconds"]),
        store=spec.store,
        score=meta["score"]["name"],
        gain=meta.get("gain"),
        verdicts=beside_baselines(meta),
        delta_bytes=int(meta["delta_bytes"]),
        base_bytes=int(meta["base"].get("bytes", 0)),
        already=True,
        test=meta.get("test"),
        comparison=read_comparison(version),
        advice=run_advice(
            with_numbers_of(spec, run, known), meta["metrics"], meta["baselines"], Runs(store).metric_lines(run)
        ),
    )
