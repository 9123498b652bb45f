"""Train a model and its controls, measure all on the same rows, and register the verdict with the model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from regraft.adaptation.trained import Trainer, train_candidate
from regraft.bases.adapted import Adapted
from regraft.comparison.controls import LAST_VERSION, ControlRun, begins_random, control_runs
from regraft.comparison.measuring import (
    ComparedRows,
    measured,
    measured_control,
    measured_dull,
    measured_version,
    trained_model,
)
from regraft.comparison.page import comparison_page
from regraft.comparison.verdict import MeasuredModel, verdict
from regraft.contracts import Progress, note
from regraft.data.snapshot import open_snapshot
from regraft.errors import ClusterError, RegraftError, RequestError, RunError, Stopped, StoreError
from regraft.serving.predictor import Predictor
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.spec.stored import read_stored_spec
from regraft.store.checkpoints import Checkpoints
from regraft.store.comparisons import COMPARISON, control_name, read_comparison, write_comparison
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version
from regraft.store.runs import Runs
from regraft.store.version_scores import newest_version
from regraft.training.budget_guard import is_budget_end
from regraft.training.harness import LocalHarness
from regraft.training.prepare import PreparedRun, find_document
from regraft.training.registration import Outcome, best_delta, register
from regraft.training.session import Finish
from regraft.units import counted

_NO_ROWS = "no evaluation row is there to compare on"
TrainFinal = Callable[[Finish], Outcome]
"""Trains the model itself and ends its run as told."""


@dataclass(frozen=True, slots=True)
class Comparing:
    """Compares one model with its controls; `train` trains these without registering them."""

    train: Trainer
    progress: Progress | None

    def run(self, store: ObjectStore, train: TrainFinal) -> Outcome:
        """Train the model, or find it, and compare it before it is registered, or afterwards if it was before."""
        outcome = train(self.finish)
        if outcome.comparison is not None:
            return outcome
        return replace(outcome, comparison=self.version(store, f"{outcome.model}@{outcome.version}"))

    def finish(self, prepared: PreparedRun) -> Outcome:
        """Compare a trained run and register it with the verdict."""
        store, spec, job = prepared.store, prepared.spec, prepared.job
        rows = ComparedRows(store, spec, open_snapshot(store, job.fingerprint), LocalHarness(progress=self.progress))
        if not len(rows.compared):
            note(self.progress, f"{_NO_ROWS}: the model is registered without controls")
            return replace(register(prepared), comparison={})
        _, delta = best_delta(Checkpoints(store, job.run), spec.task.score, prepared.log)
        adapted = trained_model(rows, job, delta)
        with prepared.clock.paused():
            found = self._compared(rows, adapted, newest_version(Registry(store), spec.name))
        prepared.lease.raise_if_lost("another driver took this run over while its controls trained", job.run)
        outcome = register(prepared, {COMPARISON: found})
        self._write(store, f"{outcome.model}@{outcome.version}", found)
        return replace(outcome, comparison=found)

    def version(self, store: ObjectStore, reference: str) -> dict[str, Any]:
        """Compare a registered version, unless it was compared before."""
        registry = Registry(store)
        version = registry.version(*registry.parse(reference))
        if (known := read_comparison(version)) is not None:
            return known
        with _opened(store, version, self.progress) as (rows, predictor):
            if not len(rows.compared):
                note(self.progress, _NO_ROWS)
                return {}
            found = self._compared(rows, predictor.adapted, _before(registry, version))
        self._write(store, str(version), found)
        return found

    def _compared(self, rows: ComparedRows, adapted: Adapted, last: Version | None) -> dict[str, Any]:
        model = measured(rows, "this_model", adapted, knows_base=not begins_random(rows.spec))
        left_out: list[tuple[str, str]] = []
        controls = [*self._dull(rows, adapted, left_out), *self._trained(rows, left_out)]
        if last is None:
            left_out.append((LAST_VERSION, "there is no earlier version"))
        else:
            try:
                controls.append(measured_version(rows, LAST_VERSION, last, adapted))
            except RegraftError as error:
                left_out.append((LAST_VERSION, str(error)))
        return verdict(model, controls, adapted.task.score, left_out, side=rows.side)

    def _dull(self, rows: ComparedRows, adapted: Adapted, left_out: list[tuple[str, str]]) -> list[MeasuredModel]:
        note(self.progress, "controls: a dull baseline, without any base")
        try:
            return measured_dull(rows, adapted, self.progress)
        except RequestError as error:
            left_out.append(("dull_baseline", error.message))
            return []

    def _trained(self, rows: ComparedRows, left_out: list[tuple[str, str]]) -> Iterator[MeasuredModel]:
        """Yield the controls that are runs; one that cannot be trained is left out, with its reason."""
        wanted = control_runs(rows.spec, len(rows.snapshot.train))
        runs = [one for one in wanted if one.spec is not None]
        left_out += [(one.name, one.why) for one in wanted if one.spec is None]
        for number, control in enumerate(runs, 1):
            note(self.progress, f"control {number} of {counted(len(runs), 'run')}: {control.what}")
            try:
                yield self._train(rows, control)
            except (StoreError, ClusterError):
                raise  # the same command goes on with this control
            except (RequestError, RunError) as error:
                if isinstance(error, Stopped) and not is_budget_end(error):
                    raise  # so it does here
                note(self.progress, f"control {control_name(control.name)} is left out: {error}")
                left_out.append((control.name, error.message))

    def _train(self, rows: ComparedRows, control: ControlRun) -> MeasuredModel:
        assert control.spec is not None
        model = train_candidate(rows.store, control.spec, self.train)
        document = find_document(Runs(rows.store), model.run) or {}
        facts = {
            "run": model.run,
            "method": str(model.meta["method"]["type"]),
            "steps": document.get("step", 0),
            "seconds": model.meta.get("seconds"),
        }
        return measured_control(rows, control.name, model, knows_base=control.knows_base, facts=facts)

    def _write(self, store: ObjectStore, version: str, found: dict[str, Any]) -> None:
        address = write_comparison(store, version, found, comparison_page(version, found))
        note(self.progress, f"the comparison is a page: {address}")


@contextmanager
def _opened(
    store: ObjectStore, version: Version, progress: Progress | None
) -> Iterator[tuple[ComparedRows, Predictor]]:
    """Open a version with its spec and the rows of its training."""
    with tempfile.TemporaryDirectory(prefix="regraft-compare-") as scratch:
        files = Registry(store).fetch(version, Path(scratch))
        document = read_stored_spec((files / "spec.yaml").read_bytes(), str(version))
    spec = RunSpec.resolve({**document, "store": store.url}).model_copy(update={"search": None})
    fingerprint = str(version.meta["lineage"]["data"]["fingerprint"])
    snapshot = open_snapshot(store, fingerprint)
    spec = resolve_auto(spec, len(snapshot.train))
    predictor = Predictor.open(store, str(version), plugins=spec.plugins)
    yield ComparedRows(store, spec, snapshot, LocalHarness(progress=progress)), predictor


def _before(registry: Registry, version: Version) -> Version | None:
    """Return the version before this one."""
    earlier = [one for one in registry.versions(version.name) if one.number < version.number]
    return earlier[-1] if earlier else None
