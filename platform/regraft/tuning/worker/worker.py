"""One worker of a search: the base is loaded once, what is frozen is computed once, and many trials run on both."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from regraft.bases.adapted import Adapted
from regraft.bases.load import load_processor
from regraft.bases.locate import Base
from regraft.contracts import Method, TrunkShared
from regraft.data.snapshot import Snapshot, open_snapshot
from regraft.errors import RequestError, Unsupported
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore, open_store
from regraft.training.cut_check import CutSite
from regraft.training.distribute import make_accelerator
from regraft.training.harness import Harness
from regraft.training.job import Job
from regraft.training.loop import begin, train
from regraft.training.memory_check import check_steps_fit, check_weights_fit, explain_out_of_memory
from regraft.training.prepare import base_of
from regraft.training.run import Run, build_model
from regraft.trunk.cut import Cut
from regraft.tuning.protocol import Coordinator, End, SearchJob, Trial
from regraft.tuning.worker.callbacks import TrialCallbacks
from regraft.tuning.worker.connection import connected
from regraft.tuning.worker.head_probe import head_only_obstacle
from regraft.tuning.worker.head_trials import Heads
from regraft.tuning.worker.shared_cuts import SharedCuts, cut_key, sharing_totals, task_key
from regraft.tuning.worker.trial_errors import isolated

log = logging.getLogger(__name__)

FREEZES, HEADS = "freeze", "feature-extraction"
"""The method that a depth belongs to, and the one whose depth is all blocks."""


class TrialWorker:
    """Runs the trials that it is given; none of them loads the base again or computes what another has computed.

    `folder` is scratch. What ends one trial ends that trial alone; errors of the store or the coordinator end
    `run`.
    """

    store: ObjectStore
    base: Base
    snapshot: Snapshot

    def __init__(self, job: SearchJob, harness: Harness, folder: Path) -> None:
        self.job, self.harness, self.folder = job, harness, folder
        self.spec = RunSpec.resolve(job.spec)
        self.cuts_by_task: dict[str, SharedCuts] = {}
        self._processors: dict[str, Any] = {}
        self._told: dict[str, float] = {}
        self._stocked: set[tuple[str, str]] = set()
        self._heads = Heads(self)

    def prepare(self, coordinator: Coordinator) -> None:
        """Find the base, open the rows, and compute what the depths of the space share."""
        if self.job.threads:
            torch.set_num_threads(self.job.threads)
        self.store = open_store(self.spec.store)
        self.base = base_of(self.spec, self.job_of(self.spec, ""))
        check_weights_fit(self.base, self.harness)
        self.snapshot = open_snapshot(self.store, self.job.fingerprint)
        with connected(coordinator) as connection:
            self._stock([spec for depth in self.job.depths for spec in self._at(depth)], connection)

    def run(self, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends, each of which the desk is told."""
        with connected(coordinator) as connection:
            self._run(trials, connection)

    def _run(self, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        specs: dict[str, RunSpec] = {}
        for trial in trials:
            with isolated(trial, coordinator):
                specs[trial.id] = self._spec(trial)
        self._stock(list(specs.values()), coordinator)
        done = self._heads.run([(trial, specs[trial.id]) for trial in trials if trial.id in specs], coordinator)
        for trial in trials:
            if trial.id in specs and trial.id not in done:
                with isolated(trial, coordinator) as failed:
                    coordinator.ended(trial.id, self._one(trial, specs[trial.id], coordinator))
                if failed:
                    self._clear()  # an error holds what it met
        self._share(coordinator)

    def close(self) -> None:
        """Let everything go."""
        self.cuts_by_task.clear()
        self._processors.clear()
        self._heads.close()
        self._clear()

    def shared(self) -> dict[str, Any]:
        """What trials shared so far: rows, computed, reused, bytes, where, why, saved_s."""
        return sharing_totals(self.cuts_by_task.values())

    def _spec(self, trial: Trial) -> RunSpec:
        """The trial's own spec; SpecError, or Unsupported where it asks for what the search has fixed."""
        spec = trial.spec(self.spec)
        changed = [name for name in ("base", "store") if getattr(spec, name) != getattr(self.spec, name)]
        if spec.data.model_copy(update={"augment": self.spec.data.augment}) != self.spec.data:
            changed.append("data")
        if spec.task != self.spec.task and (
            spec.task.packs or spec.task.stored_columns() != self.spec.task.stored_columns()
        ):
            changed.append("task")
        if changed:
            raise Unsupported("trials of one search share it: search over another field", where=changed[0])
        return spec.model_copy(update={"task": spec.task.fit_to_rows(self.snapshot.train.numbers)})

    def _at(self, depth: int | str) -> Iterator[RunSpec]:
        """The spec at one of the space's depths, which a method's name may stand for; none where the search's own
        fields do not go with it. The depth of all blocks is also that of heads that train alone."""
        methods: list[Any] = [depth] if depth in Method.names() else [{"type": FREEZES, "depth": depth}]
        for method in [*methods, HEADS] if depth in ("all", self._blocks()) else methods:
            try:
                yield self.spec.override({"method": method})
            except RequestError as error:
                log.info("%s is not computed ahead: %s", method, error)

    def _blocks(self) -> int | None:
        """How many blocks the base has, where it can be adapted by the spec's own method."""
        try:
            return len(self.adapted(self.spec).anatomy.blocks)
        except RequestError:
            return None

    def job_of(self, spec: RunSpec, run: str) -> Job:
        """What a run of the spec would be told."""
        job = self.job
        return Job(spec.model_dump(mode="json"), run, job.base_hash, job.fingerprint, tuple(job.labels), job.threads)

    def adapted(self, spec: RunSpec) -> Adapted:
        """The trial's model as it is before its first step."""
        key = task_key(spec)
        if key not in self._processors:
            self._processors[key] = load_processor(self.base, spec.task.modality)
        return build_model(spec, self.snapshot, self.harness, self.base, processor=self._processors[key])

    def site(self, spec: RunSpec) -> CutSite:
        """The spec's model before its first step, where it would be trained."""
        adapted = self.adapted(spec)
        adapted.model.to(self.harness.device)
        accelerator = make_accelerator(spec.compute, self.harness)
        return CutSite(spec, self.snapshot, adapted, self.harness, accelerator, self.store)

    def cuts_for(self, spec: RunSpec, coordinator: Coordinator) -> SharedCuts:
        """What is kept of rows that are read as the spec reads them."""
        key = task_key(spec)
        if key not in self.cuts_by_task:
            budget = round(spec.compute.trunk_gb * 1e9)
            self.cuts_by_task[key] = SharedCuts(self.snapshot, self.folder, budget, coordinator.emit)
        cuts = self.cuts_by_task[key]
        cuts.emit = coordinator.emit
        return cuts

    def _stock(self, specs: Sequence[RunSpec], coordinator: Coordinator) -> None:
        """Have on the shelves what models of these specs keep; what cannot be kept is told, and computed by each."""
        by_task: dict[str, dict[str, RunSpec]] = {}
        for spec in specs:
            kind = task_key(spec), _structure(spec)
            if spec.compute.trunk != "off" and kind not in self._stocked:
                self._stocked.add(kind)
                by_task.setdefault(kind[0], {})[kind[1]] = spec
        for variants in by_task.values():
            sites: list[CutSite] = []
            heads: list[tuple[CutSite, Cut]] = []
            for spec in variants.values():
                try:
                    site = self.site(spec)
                except RequestError as error:
                    log.info("a model is not cut ahead: %s", error)  # its own trial will say so
                    continue
                cut = self._heads.cut(site, coordinator)
                if cut is None:
                    sites.append(site)
                else:
                    heads.append((site, cut))
            if sites or heads:
                passes = max(site.spec.training.epochs for site in [*sites, *(site for site, _ in heads)]) + 1
                self.cuts_for(next(iter(variants.values())), coordinator).stock(sites, passes, heads)
        self._heads.baselines(self.spec, coordinator)

    def _one(self, trial: Trial, spec: RunSpec, coordinator: Coordinator) -> End:
        job = self.job_of(spec, f"{self.job.search}/{trial.id}")
        with explain_out_of_memory(spec):
            adapted = self.adapted(spec)
            check_steps_fit(spec, adapted, self.harness)
            callbacks = TrialCallbacks(trial.id, self.store, job, coordinator, spec.task.score)
            run = Run(
                spec=spec,
                snapshot=self.snapshot,
                adapted=adapted,
                harness=Harness(device=self.harness.device),
                callbacks=callbacks,
            )
            site = CutSite(spec, self.snapshot, adapted, self.harness, run.accelerator, self.store)
            cuts = self.cuts_by_task.get(task_key(spec))
            key, adapted.trunk = cut_key(site), cuts.trunk(site) if cuts is not None else None
            try:
                with closing(callbacks):
                    if begin(run, self.folder / "resume"):
                        train(run)
            finally:
                adapted.trunk = None  # it knows the model: a circle, which would keep both in memory
            if cuts is not None:
                evaluated = sum(map(_evaluates, run.state.log))
                seen = len(self.snapshot.train) * run.state.step / run.per_epoch + len(self.snapshot.eval) * evaluated
                cuts.read(key, seen)
        return ended(run, callbacks)

    def _share(self, coordinator: Coordinator) -> None:
        """Tell what has been shared since it was told last."""
        found = self.shared()
        new = dict(found)
        for name in ("computed", "reused", "bytes", "saved_s"):
            new[name] = found[name] - self._told.get(name, 0)
            self._told[name] = found[name]
        coordinator.emit(TrunkShared(**new))

    def _clear(self) -> None:
        gc.collect()
        if self.harness.device.type == "cuda":
            torch.cuda.empty_cache()


def ended(run: Run, callbacks: TrialCallbacks) -> End:
    """How a trial that did not fail ended."""
    anatomy, parameters = run.adapted.anatomy, list(run.adapted.model.parameters())
    best = callbacks.best
    return End(
        "stopped" if callbacks.stopped else "finished",
        run.state.seconds,
        best.prefix if best else None,
        depth=run.adapted.method.depth_of(anatomy),
        blocks=len(anatomy.blocks),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(p.numel() for p in parameters),
        correct=best.correct if best else "",
    )


def _evaluates(line: dict[str, Any]) -> bool:
    return any(name.startswith("eval_") for name in line)


def _structure(spec: RunSpec) -> str:
    """What decides how a model is built and cut, as text: models that agree in it are cut alike."""
    heads = spec.method.serves == "head" and head_only_obstacle(spec)
    return repr((spec.method, spec.training.dropout, bool(spec.losses), spec.data.augment, spec.compute, heads))
