"""The trials of one base in a worker: its frozen outputs are computed once, and many trials run on both."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from regraft.contracts import Method
from regraft.data.row_sample import fit_to_data
from regraft.errors import RequestError, Unsupported
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.spec.sections import number_of
from regraft.training.cut_check import CutSite
from regraft.training.loop import begin, train
from regraft.training.memory_check import explain_out_of_memory
from regraft.training.memory_release import free_memory
from regraft.training.run import Run
from regraft.training.run_start import check_trial
from regraft.trunk.cut import Cut
from regraft.tuning.protocol import Coordinator, End, Trial
from regraft.tuning.worker.context import TrialHarness, WorkerContext, in_steps
from regraft.tuning.worker.head_probe import head_only_obstacle
from regraft.tuning.worker.head_trials import HeadTrials
from regraft.tuning.worker.phase_cuts import PhaseCuts
from regraft.tuning.worker.shared_cuts import task_key
from regraft.tuning.worker.trial_errors import isolated

log = logging.getLogger(__name__)

FREEZES, HEADS = "freeze", "feature-extraction"
"""The method that a depth belongs to, and the one whose depth is all blocks."""


class BaseTrials:
    """Runs the trials of one base. No trial loads the base again, or computes outputs that another one has computed."""

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self._heads = HeadTrials(context)
        self._stocked: set[tuple[str, str]] = set()
        self._prepared = False

    def prepare(self, coordinator: Coordinator) -> None:
        """Compute the outputs that the depths of the space share, once."""
        if self._prepared:
            return
        self._prepared = True
        depths = self.context.job.depths
        self._stock([spec for depth in depths for spec in self._specs_at(depth)], coordinator)

    def run(self, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends, and report each end to the coordinator; after a notice, to a checkpoint."""
        specs: dict[str, RunSpec] = {}
        for trial in trials:
            with isolated(trial, coordinator):
                specs[trial.id] = self._spec_of(trial)
        self._stock(list(specs.values()), coordinator)
        done = self._heads.run([(trial, specs[trial.id]) for trial in trials if trial.id in specs], coordinator)
        for trial in trials:
            if self.context.harness.notice:
                break
            if trial.id in specs and trial.id not in done:
                with isolated(trial, coordinator) as failed:
                    end = self._run_one(trial, specs[trial.id], coordinator)
                    if end is not None:
                        coordinator.ended(trial.id, end)
                if failed:
                    free_memory(self.context.harness)  # an error refers to the model through its traceback

    def rest(self) -> None:
        """Release models and what can be read again, while another base is worked on; kept outputs stay."""
        self._heads.rest()
        for cuts in self.context.cuts_by_task.values():
            cuts.rest()
        free_memory(self.context.harness)

    def close(self) -> None:
        """Release everything that is loaded."""
        self.context.close()
        self._heads.close()

    def _spec_of(self, trial: Trial) -> RunSpec:
        """Return the trial's own spec. Raises SpecError, or Unsupported if it changes what the search has fixed."""
        spec, common = trial.spec(self.context.spec), self.context.spec
        changed = [name for name in ("base", "store") if getattr(spec, name) != getattr(common, name)]
        if spec.data.model_copy(update={"augment": common.data.augment}) != common.data:
            changed.append("data")
        if spec.task != common.task and (spec.task.packs or spec.task.stored_columns() != common.task.stored_columns()):
            changed.append("task")
        if changed:
            raise Unsupported("trials of one search share it: search over another field", where=changed[0])
        rows = self.context.snapshot.train
        return resolve_auto(spec, len(rows)).model_copy(update={"task": fit_to_data(spec.task, rows)})

    def _specs_at(self, depth: int | str) -> Iterator[RunSpec]:
        """Yield the specs at one of the space's depths, which may be a method's name, without contradictory ones.

        The depth of all blocks is also that of heads that train alone.
        """
        methods: list[Any] = [depth] if depth in Method.names() else [{"type": FREEZES, "depth": depth}]
        for method in [*methods, HEADS] if depth in ("all", self._count_blocks()) else methods:
            try:
                spec = self.context.spec.override({"method": method})
                yield resolve_auto(spec, len(self.context.snapshot.train))
            except RequestError as error:
                log.info("%s is not computed ahead: %s", method, error)

    def _count_blocks(self) -> int | None:
        """Return the number of blocks of the base; None if the spec's own method does not fit it."""
        try:
            return len(self.context.adapted(self.context.spec).anatomy.blocks)
        except RequestError:
            return None

    def _stock(self, specs: Sequence[RunSpec], coordinator: Coordinator) -> None:
        """Compute the outputs that models of these specs share; a note says which models compute them themselves."""
        by_task: dict[str, dict[str, RunSpec]] = {}
        for spec in specs:
            kind = task_key(spec), _structure(spec)
            if spec.compute.trunk != "off" and kind not in self._stocked:
                self._stocked.add(kind)
                by_task.setdefault(kind[0], {})[kind[1]] = spec
        for variants in by_task.values():
            self._stock_task(list(variants.values()), coordinator)
        self._heads.measure_baselines(self.context.spec, coordinator)

    def _stock_task(self, specs: Sequence[RunSpec], coordinator: Coordinator) -> None:
        sites: list[CutSite] = []
        heads: list[tuple[CutSite, Cut]] = []
        for spec in specs:
            self.context.harness.pulse.beat()  # a large base takes a while, and it may come late in a search
            try:
                site, *later = self.context.sites(spec)
            except RequestError as error:
                log.info("a model is not cut ahead: %s", error)  # its own trial reports the error
                continue
            cut = self._heads.cut(site, coordinator)
            if cut is None:
                sites += [site, *later]
            else:
                heads.append((site, cut))
        if sites or heads:
            passes = max(number_of(site.spec.training.epochs) for site in [*sites, *(site for site, _ in heads)]) + 1
            self.context.cuts_for(specs[0], coordinator).stock(sites, passes, heads)

    def _run_one(self, trial: Trial, spec: RunSpec, coordinator: Coordinator) -> End | None:
        """Run one trial and return its end; None if it was asked to stop before."""
        context = self.context
        with explain_out_of_memory(spec):
            adapted = context.adapted(spec)
            check_trial(spec, adapted, context.snapshot, context.harness)
            callbacks = context.callbacks_for(trial, spec, coordinator)
            run = Run(
                spec=spec,
                snapshot=context.snapshot,
                adapted=adapted,
                harness=TrialHarness(context.harness),
                callbacks=callbacks,
            )
            cuts = PhaseCuts(context, run, context.cuts_by_task.get(task_key(spec)))
            try:
                with in_steps(context.harness), closing(callbacks):
                    if begin(run, context.folder / "resume"):
                        run.teachers = context.teachers(run)
                        train(run, cuts.next)
            finally:
                adapted.trunk = None  # it refers to the model: a circle, which would keep both in memory
            cuts.count_rows()
        if context.harness.notice and not run.state.finished:
            return None
        return callbacks.end(run.adapted, run.state.seconds)


def _structure(spec: RunSpec) -> str:
    """Return a key of everything that decides how a model is built and cut."""
    heads = spec.method.serves == "head" and head_only_obstacle(spec)
    # The phases of a method follow from the length of the run.
    training = spec.training
    length = spec.method.has_phases() and (training.steps, training.epochs, training.batch_size)
    return repr((spec.method, spec.training.dropout, bool(spec.losses), spec.data.augment, spec.compute, heads, length))
