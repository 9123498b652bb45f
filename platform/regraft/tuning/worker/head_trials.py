"""Which trials of a worker train a head alone, and that they do it together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import BaselinesMeasured, Method, Note, under
from regraft.errors import StoreError, Unsupported
from regraft.spec.run import RunSpec
from regraft.training.baselines import CENTROID, majority
from regraft.training.closed_form import solved
from regraft.training.cut_check import CutSite
from regraft.training.evaluate import packed
from regraft.training.run import training_context
from regraft.trunk.cut import Cut
from regraft.tuning.protocol import Coordinator, Trial
from regraft.tuning.records import error_line
from regraft.tuning.worker.callbacks import TrialCallbacks
from regraft.tuning.worker.head_cohort import HeadCohort, HeadTrial, ended
from regraft.tuning.worker.head_probe import Bare, NotBare, bare, dropout_before, head_only_obstacle, truths
from regraft.tuning.worker.shared_cuts import head_key, keepable, task_key
from regraft.tuning.worker.stacked_heads import Head, HeadRows
from regraft.tuning.worker.trial_errors import isolated

if TYPE_CHECKING:
    from regraft.tuning.worker.worker import TrialWorker

log = logging.getLogger(__name__)

Given = Sequence[tuple[Trial, RunSpec]]


class Heads:
    """The heads of a workshop's trials."""

    def __init__(self, worker: TrialWorker) -> None:
        self._worker = worker
        self._bare: dict[str, Bare] = {}
        self._good: set[tuple[str, ...]] = set()
        self._sites: dict[str, CutSite] = {}
        self._measured = False
        self._models: dict[tuple[str, ...], tuple[CutSite, float]] = {}
        self._first: dict[tuple[str, ...], tuple[Tensor, Tensor | None]] = {}
        self._labels: dict[str, tuple[Tensor, Tensor]] = {}

    def cut(self, site: CutSite, coordinator: Coordinator) -> Cut | None:
        """What the head of a model sees, where it alone trains and that is all it needs; a note says why not."""
        if not keepable(site) or not head_alone(site.adapted):
            return None
        key = task_key(site.spec)
        try:
            found = self._bare.get(key) or bare(site)
            dropout_before(site)
        except NotBare as error:
            coordinator.emit(Note(f"trials that only train a head run one after another: {error}"))
            return None
        self._bare[key] = found
        self._good.add(kind_of(site.spec))
        self._sites.setdefault(key, site)
        return found.cut

    def baselines(self, spec: RunSpec, coordinator: Coordinator) -> None:
        """Measure the honest baselines once, where what a head sees is there: class means cost next to nothing then."""
        worker, site = self._worker, self._sites.get(task_key(spec))
        asked = spec.training.baselines and "baselines" in spec.task.supports
        if not asked or self._measured or site is None or not worker.cuts_for(spec, coordinator).holds_heads(site.spec):
            return
        self._measured = True
        task, context = site.spec.task, replace(site.adapted.context, class_weights=None, label_smoothing=0.0)
        train, held = self._rows(site, coordinator)
        found: dict[str, Any] = {"majority": majority(worker.snapshot)}
        correct = ""
        try:
            method = Method.lookup(CENTROID)()
            head = solved(method, train.features, train.labels, len(context.labels), head=site.adapted.linear_head())
            output = self._bare[task_key(spec)].output
            with torch.inference_mode():
                records = task.records(output(head(held.features)), {"labels": held.labels}, context)
            found["nearest_centroid"], correct = task.metrics(records, context), packed(records)
        except Unsupported as error:
            coordinator.emit(Note(f"no nearest-centroid baseline: {error}"))
        coordinator.emit(BaselinesMeasured(found, correct))

    def run(self, trials: Given, coordinator: Coordinator) -> set[str]:
        """Carry out those of the trials that only train a head, together; the ids of those that are over."""
        groups: dict[tuple[str, ...], list[tuple[Trial, RunSpec]]] = {}
        for trial, spec in trials:
            key = task_key(spec)
            cuts = self._worker.cuts_by_task.get(key)
            if (
                cuts is None
                or head_only_obstacle(spec)
                or kind_of(spec) not in self._good
                or not cuts.holds_heads(spec)
            ):
                continue
            how = "solved" if spec.method.closed_form else spec.training.optimizer
            groups.setdefault((key, spec.compute.trunk, how), []).append((trial, spec))
        done: set[str] = set()
        for group in groups.values():
            done |= self._together(group, coordinator)
        return done

    def _together(self, group: Given, coordinator: Coordinator) -> set[str]:
        """Carry out one group; what goes wrong with all of them at once leaves those that are not over to be run one
        after another, from where they stand."""
        worker = self._worker
        ready: list[HeadTrial] = []
        done: set[str] = set()
        for trial, spec in group:
            with isolated(trial, coordinator) as failed:
                one = self._ready(trial, spec, coordinator)
                if one.state.finished:
                    one.callbacks.close()
                    coordinator.ended(trial.id, ended(one, 1))
                    done.add(trial.id)
                else:
                    ready.append(one)
            if failed:
                done.add(trial.id)
        if not ready:
            return done
        site, _ = self._model(ready[0].spec)
        train, held = self._rows(site, coordinator)
        output = self._bare[task_key(site.spec)].output
        cohort = HeadCohort(ready, train, held, output, coordinator)
        try:
            self._carry_out(cohort, ready, coordinator)
        except BaseException:
            for one in ready:
                one.callbacks.drop()
            raise
        rows = sum(one.state.step * one.spec.training.batch_size for one in ready)
        worker.cuts_for(site.spec, coordinator).read(head_key(site.spec), rows)
        left = {one.trial.id for one in cohort.open}
        return done | {one.trial.id for one in ready if one.trial.id not in left}

    def _carry_out(self, cohort: HeadCohort, ready: Sequence[HeadTrial], coordinator: Coordinator) -> None:
        if not ready[0].spec.method.closed_form:
            try:
                cohort.run()
            except StoreError:
                raise
            except Exception as error:
                log.info("heads could not be trained together", exc_info=True)
                reason = error_line(error)
                coordinator.emit(Note(f"{len(cohort.open)} trials go on one after another: {reason}"))
                cohort.disband()
        else:
            cohort.pause(range(len(ready)))

    def _ready(self, trial: Trial, spec: RunSpec, coordinator: Coordinator) -> HeadTrial:
        """A trial before its next step."""
        worker = self._worker
        site, dropout = self._model(spec)
        linear = site.adapted.linear_head()
        bucketing = spec.training.bucketing and "bucketing" in spec.task.supports
        context = training_context(site.adapted.context, spec, worker.snapshot, worker.harness)
        head = Head(spec.training, context, dropout, bucketing, *self._drawn(spec))
        job = worker.job_of(spec, f"{worker.job.search}/{trial.id}")
        callbacks = TrialCallbacks(trial.id, worker.store, job, coordinator, spec.task.score)
        one = HeadTrial(trial, spec, site.adapted, head, callbacks)
        one.restore(worker.folder / trial.id)
        if spec.method.closed_form and not one.state.finished:
            train, _ = self._rows(site, coordinator)
            found = solved(spec.method, train.features, train.labels, len(site.adapted.context.labels), head=linear)
            head.weight = found.weight.detach()
            head.bias = None if found.bias is None else found.bias.detach()
            head.step = head.steps(len(train.features))
        return one

    def _model(self, spec: RunSpec) -> tuple[CutSite, float]:
        """The model that heads of this kind share, and the dropout before its head."""
        kind = kind_of(spec)
        if kind not in self._models:
            site = self._worker.site(spec)
            self._models[kind] = site, dropout_before(site)
        return self._models[kind]

    def _drawn(self, spec: RunSpec) -> tuple[Tensor, Tensor | None]:
        """The head's first values by the trial's seed: all of the model that is its own."""
        key = (*kind_of(spec), str(spec.training.seed))
        if key not in self._first:
            linear = self._worker.adapted(spec).linear_head()
            held = None if linear.bias is None else linear.bias.detach().clone()
            self._first[key] = linear.weight.detach().clone(), held
        device = self._worker.harness.device
        weight, bias = self._first[key]
        return weight.to(device), None if bias is None else bias.to(device)

    def _rows(self, site: CutSite, coordinator: Coordinator) -> tuple[HeadRows, HeadRows]:
        worker, key = self._worker, task_key(site.spec)
        seen = worker.cuts_for(site.spec, coordinator).seen_by_heads(site)
        assert seen is not None
        sides = worker.snapshot.train, worker.snapshot.eval
        if key not in self._labels:
            task, device = site.spec.task, site.harness.device
            first, second = (truths(task, site.adapted, rows).to(device) for rows in sides)
            self._labels[key] = first, second
        train, held = (
            HeadRows(features, labels, rows.lengths)
            for features, labels, rows in zip(seen, self._labels[key], sides, strict=True)
        )
        return train, held

    def close(self) -> None:
        """Let the models go."""
        self._models.clear()
        self._sites.clear()
        self._first.clear()
        self._labels.clear()


def head_alone(adapted: Adapted) -> bool:
    """Whether nothing but the task's own layers trains."""
    trained = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    return all(under(name, adapted.anatomy.head) for name in trained)


def kind_of(spec: RunSpec) -> tuple[str, ...]:
    """Specs that agree in it have heads of one kind: all of them train on features, or none."""
    return task_key(spec), repr(spec.method), repr(spec.training.dropout)
