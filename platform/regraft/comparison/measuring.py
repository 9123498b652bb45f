"""The records of models on the rows of a comparison: the trained one, its controls, and the last version."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors.torch import load

from regraft.adaptation.forward import load_delta
from regraft.adaptation.trained import TrainedModel, site_of
from regraft.bases.adapted import Adapted
from regraft.comparison.verdict import MeasuredModel
from regraft.contracts import Progress
from regraft.data.rows import Rows
from regraft.data.snapshot import Snapshot
from regraft.errors import Unsupported
from regraft.evaluation.labelled_rows import LabelledRows
from regraft.evaluation.training_rows import seen_rows
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.store.registry import Version
from regraft.training.dull_baseline import dull_answers
from regraft.training.evaluate import evaluate
from regraft.training.harness import LocalHarness
from regraft.training.job import Job
from regraft.training.prepare import base_of
from regraft.training.run import build_model


@dataclass(frozen=True, slots=True)
class ComparedRows:
    """The rows of a comparison, and where models are run on them."""

    store: ObjectStore
    spec: RunSpec
    """The spec of the model that is compared, with numbers for all training keys."""
    snapshot: Snapshot
    harness: LocalHarness

    @property
    def side(self) -> Literal["test", "eval"]:
        """The side whose rows are compared: test rows, which chose nothing, where there are some."""
        return "test" if self.snapshot.test is not None and len(self.snapshot.test) else "eval"

    @property
    def compared(self) -> Rows:
        """The rows on which every model is measured."""
        return self.snapshot.sides[self.side]

    @property
    def size(self) -> int:
        """Rows of a batch."""
        return max(32, self.spec.training.batch_size)


def measured(rows: ComparedRows, name: str, adapted: Adapted, **more: Any) -> MeasuredModel:
    """Run a model on the rows; `more` are fields of the result."""
    adapted.model.to(rows.harness.device)
    with torch.inference_mode():
        _, records = evaluate(adapted, rows.compared, rows.harness, size=rows.size, autocast=nullcontext())
    task, context = adapted.task, adapted.context
    return MeasuredModel(name, lambda chosen: task.metrics(chosen, context), records, **more)


def trained_model(rows: ComparedRows, job: Job, delta: bytes) -> Adapted:
    """Return the model of a run's best checkpoint."""
    spec = job.resolved()
    adapted = build_model(spec, rows.snapshot, rows.harness, base_of(rows.store, spec, job))
    load_delta(adapted, load(delta))
    return adapted


def measured_control(rows: ComparedRows, name: str, model: TrainedModel, **more: Any) -> MeasuredModel:
    """Run a trained control on the rows."""
    site = site_of(rows.store, model, rows.snapshot, rows.harness)
    load_delta(site.adapted, model.tensors)
    return measured(rows, name, site.adapted, **more)


def measured_dull(rows: ComparedRows, adapted: Adapted, progress: Progress | None) -> list[MeasuredModel]:
    """Return the dull baselines of the task. Raises Unsupported for a task that has none."""
    task, context = adapted.task, adapted.context
    found = dull_answers(task, context, rows.snapshot.train, rows.compared, progress=progress)
    return [
        MeasuredModel(one.name, lambda chosen: task.metrics(chosen, context), one.records, knows_base=False)
        for one in found
    ]


def measured_version(rows: ComparedRows, name: str, version: Version, like: Adapted) -> MeasuredModel:
    """Run an earlier version on the rows. Raises Unsupported where its answers cannot be compared."""
    predictor = Predictor.open(rows.store, str(version), plugins=rows.spec.plugins, device=str(rows.harness.device))
    _refuse_other_answers(predictor, like, rows.snapshot)
    rows_seen = seen_rows(rows.store, predictor, LabelledRows(rows.compared, "", "", {}, {}))
    facts = {"version": str(version), "seen": rows_seen.train}
    return measured(rows, name, predictor.adapted, facts=facts)


def _refuse_other_answers(predictor: Predictor, like: Adapted, snapshot: Snapshot) -> None:
    task, other = like.task, predictor.adapted.task
    if task.packs or other.packs:
        raise Unsupported("rows that a task packs depend on the tokenizer")
    if dict(task.input_columns()) != dict(other.input_columns()) or task.score != other.score:
        raise Unsupported(f"{predictor.name} has task {other.key()}, and this model {task.key()}")
    unknown = [label for label in snapshot.labels if label not in predictor.labels]
    if unknown:
        raise Unsupported(f"{predictor.name} does not know the label {unknown[0]!r}")
