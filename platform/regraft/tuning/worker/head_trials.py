"""The trials of a worker that only train a head: which these are, and their training together on shared features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
from regraft.tuning.worker.context import WorkerContext, in_steps
from regraft.tuning.worker.head_cohort import HeadCohort, HeadTrial
from regraft.tuning.worker.head_probe import (
    FeatureHead,
    NeedsModel,
    feature_head,
    head_dropout,
    head_only_obstacle,
    head_targets,
)
from regraft.tuning.worker.shared_cuts import head_key, keepable, task_key
from regraft.tuning.worker.stacked_heads import Head, HeadRows
from regraft.tuning.worker.trial_errors import isolated

log = logging.getLogger(__name__)

TrialSpecs = Sequence[tuple[Trial, RunSpec]]


class HeadTrials:
    """The head trials of a worker, with the models and first values that they share."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._heads: dict[str, FeatureHead] = {}
        self._kinds: set[tuple[str, ...]] = set()
        """Kinds of heads that can be trained on features."""
        self._sites: dict[str, CutSite] = {}
        self._measured = False
        self._models: dict[tuple[str, ...], tuple[CutSite, float]] = {}
        self._first: dict[tuple[str, ...], tuple[Tensor, Tensor | None]] = {}
        self._labels: dict[str, tuple[Tensor, Tensor]] = {}

    def cut(self, site: CutSite, coordinator: Coordinator) -> Cut | None:
        """Return the cut before a model's head if only the head trains and features are all it needs.

        Returns None otherwise; a note says why a head needs its model.
        """
        if not keepable(site) or not only_head_trains(site.adapted):
            return None
        key = task_key(site.spec)
        try:
            found = self._heads.get(key) or feature_head(site)
            head_dropout(site)
        except NeedsModel as error:
            coordinator.emit(Note(f"trials that only train a head run one after another: {error}"))
            return None
        self._heads[key] = found
        self._kinds.add(kind_of(site.spec))
        self._sites.setdefault(key, site)
        return found.cut

    def measure_baselines(self, spec: RunSpec, coordinator: Coordinator) -> None:
        """Measure the baselines once, if the features of heads are kept: class means then cost next to nothing."""
        context, site = self._context, self._sites.get(task_key(spec))
        asked = spec.training.baselines and "baselines" in spec.task.supports
        if not asked or self._measured or site is None:
            return
        if not context.cuts_for(spec, coordinator).holds_heads(site.spec):
            return
        self._measured = True
        train, held = self._rows(site, coordinator)
        found: dict[str, Any] = {"majority": majority(context.snapshot)}
        correct = ""
        try:
            found["nearest_centroid"], correct = self._nearest_centroid(site, train, held)
        except Unsupported as error:
            coordinator.emit(Note(f"no nearest-centroid baseline: {error}"))
        base = context.spec.base if context.of else None  # one of several
        coordinator.emit(BaselinesMeasured(found, correct, base))

    def _nearest_centroid(self, site: CutSite, train: HeadRows, held: HeadRows) -> tuple[dict[str, float], str]:
        """Return the baseline's metrics, and the evaluation rows that it predicts correctly."""
        task, context = site.spec.task, replace(site.adapted.context, class_weights=None, label_smoothing=0.0)
        method = Method.lookup(CENTROID)()
        head = solved(method, train.features, train.labels, len(context.labels), head=site.adapted.linear_head())
        output = self._heads[task_key(site.spec)].output
        with torch.inference_mode():
            records = task.records(output(head(held.features)), {"labels": held.labels}, context)
        return task.metrics(records, context), packed(records)

    def run(self, trials: TrialSpecs, coordinator: Coordinator) -> set[str]:
        """Train those of the trials that only train a head, and return the ids of those that are over."""
        groups: dict[tuple[str, ...], list[tuple[Trial, RunSpec]]] = {}
        for trial, spec in trials:
            key = task_key(spec)
            cuts = self._context.cuts_by_task.get(key)
            if cuts is None or not cuts.holds_heads(spec):
                continue
            if head_only_obstacle(spec) or kind_of(spec) not in self._kinds:
                continue
            how = "solved" if spec.method.closed_form else spec.training.optimizer
            groups.setdefault((key, spec.compute.trunk, how), []).append((trial, spec))
        done: set[str] = set()
        for group in groups.values():
            if self._context.harness.notice:
                break
            done |= self._run_group(group, coordinator)
        return done

    def _run_group(self, group: TrialSpecs, coordinator: Coordinator) -> set[str]:
        """Train one group together and return the ids of the trials that are over.

        After an error of the common computation the others are left to be run one after another, from where they are.
        """
        ready, done = self._prepare_group(group, coordinator)
        if not ready:
            return done
        site, _ = self._model(ready[0].spec)
        output = self._heads[task_key(site.spec)].output
        cohort = HeadCohort(ready, self._rows(site, coordinator), output, coordinator)
        try:
            with in_steps(self._context.harness):
                self._train(cohort, ready, coordinator)
        except BaseException:
            for one in ready:
                one.callbacks.abandon()
            raise
        rows = sum(one.state.step * one.spec.training.batch_size for one in ready)
        self._context.cuts_for(site.spec, coordinator).read(head_key(site.spec), rows)
        left = {one.trial.id for one in cohort.open}
        return done | {one.trial.id for one in ready if one.trial.id not in left}

    def _prepare_group(self, group: TrialSpecs, coordinator: Coordinator) -> tuple[list[HeadTrial], set[str]]:
        """Return the trials that are ready for their next step, and the ids of those that are over already."""
        ready: list[HeadTrial] = []
        done: set[str] = set()
        for trial, spec in group:
            with isolated(trial, coordinator) as failed:
                one = self._prepare(trial, spec, coordinator)
                if one.state.finished:
                    one.callbacks.close()
                    coordinator.ended(trial.id, one.callbacks.end(one.adapted, one.state.seconds))
                    done.add(trial.id)
                else:
                    ready.append(one)
            if failed:
                done.add(trial.id)
        return ready, done

    def _train(self, cohort: HeadCohort, ready: Sequence[HeadTrial], coordinator: Coordinator) -> None:
        if ready[0].spec.method.closed_form:
            cohort.pause(range(len(ready)))
            return
        try:
            cohort.run(self._context.harness)
        except StoreError:
            raise
        except Exception as error:
            log.info("heads could not be trained together", exc_info=True)
            coordinator.emit(Note(f"{len(cohort.open)} trials go on one after another: {error_line(error)}"))
            cohort.disband()

    def _prepare(self, trial: Trial, spec: RunSpec, coordinator: Coordinator) -> HeadTrial:
        """Return a trial before its next step; a closed-form one with its solution."""
        context = self._context
        site, dropout = self._model(spec)
        linear = site.adapted.linear_head()
        bucketing = spec.training.bucketing and "bucketing" in spec.task.supports
        head_context = training_context(site.adapted.context, spec, context.snapshot, context.harness)
        head = Head(spec.training, head_context, dropout, bucketing, *self._first_values(spec))
        callbacks = context.callbacks_for(trial, spec, coordinator)
        one = HeadTrial(trial, spec, site.adapted, head, callbacks)
        one.restore(context.folder / trial.id)
        if spec.method.closed_form and not one.state.finished:
            train, _ = self._rows(site, coordinator)
            found = solved(spec.method, train.features, train.labels, len(site.adapted.context.labels), head=linear)
            head.weight = found.weight.detach()
            head.bias = None if found.bias is None else found.bias.detach()
            head.step = head.steps(len(train.features))
        return one

    def _model(self, spec: RunSpec) -> tuple[CutSite, float]:
        """Return the model that heads of this kind share, and the dropout before its head."""
        kind = kind_of(spec)
        if kind not in self._models:
            site = self._context.site(spec)
            self._models[kind] = site, head_dropout(site)
        return self._models[kind]

    def _first_values(self, spec: RunSpec) -> tuple[Tensor, Tensor | None]:
        """Return the head's initial weight and bias, which the trial's seed determines."""
        key = (*kind_of(spec), str(spec.training.seed))
        if key not in self._first:
            linear = self._context.adapted(spec).linear_head()
            held = None if linear.bias is None else linear.bias.detach().clone()
            self._first[key] = linear.weight.detach().clone(), held
        device = self._context.harness.device
        weight, bias = self._first[key]
        return weight.to(device), None if bias is None else bias.to(device)

    def _rows(self, site: CutSite, coordinator: Coordinator) -> tuple[HeadRows, HeadRows]:
        """Return features and labels of the training and the evaluation rows."""
        snapshot, key = self._context.snapshot, task_key(site.spec)
        features = self._context.cuts_for(site.spec, coordinator).head_features(site)
        assert features is not None
        sides = snapshot.train, snapshot.eval
        if key not in self._labels:
            task, device = site.spec.task, site.harness.device
            first, second = (head_targets(task, site.adapted, rows).to(device) for rows in sides)
            self._labels[key] = first, second
        train, held = (
            HeadRows(each, labels, rows.lengths)
            for each, labels, rows in zip(features, self._labels[key], sides, strict=True)
        )
        return train, held

    def rest(self) -> None:
        """Release the models, which are made again when they are needed."""
        self._models.clear()
        self._sites.clear()

    def close(self) -> None:
        """Release the models and what was computed from them."""
        self.rest()
        self._first.clear()
        self._labels.clear()


def only_head_trains(adapted: Adapted) -> bool:
    """Return whether only the task's own layers train, from the first step to the last."""
    if adapted.moves is not None:
        return False
    trained = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    return all(under(name, adapted.anatomy.head) for name in trained)


def kind_of(spec: RunSpec) -> tuple[str, ...]:
    """Return the kind of a spec's head; either all heads of a kind can be trained on features, or none."""
    return task_key(spec), repr(spec.method), repr(spec.training.dropout)
