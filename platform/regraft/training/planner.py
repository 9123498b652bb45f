"""The plan of a run before it starts: what moves, memory by part, bytes of checkpoints, rows and steps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from regraft.bases.adapt import Adaptation
from regraft.bases.adapted import Adapted
from regraft.bases.base_header import BaseHeader
from regraft.bases.meta_model import meta_adapted
from regraft.contracts import Batch
from regraft.data.rows import Rows
from regraft.data.sampler import batches_per_epoch
from regraft.data.snapshot import Snapshot
from regraft.spec.run import RunSpec
from regraft.training.checkpoint_bytes import CheckpointBytes, checkpoint_bytes, state_bytes
from regraft.training.distribute import precision, recompute_activations
from regraft.training.evaluate import encoded
from regraft.training.memory_parts import WorkerMemory, WorkerSite, model_bytes, worker_memory
from regraft.training.pass_memory import PassMemory, pass_memory
from regraft.training.run_steps import steps_of
from regraft.trunk.cache import BATCH

log = logging.getLogger(__name__)
LATE_LIBRARIES = 100_000_000
"""Bytes of what is imported with the first model."""
LAST_KEPT = 2
"""The newest checkpoints that stay beside the best, so that a damaged one has a fallback."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will take, as far as it is known before it starts."""

    task: str
    method: str
    base: str
    parameters: int
    moving: int
    depth: int
    """Frozen blocks."""
    blocks: int
    rows: Mapping[str, int]
    steps: int
    evaluations: int
    workers: int
    memory: WorkerMemory
    checkpoint: CheckpointBytes
    kept: int
    """Most checkpoints that are in the store at one time."""
    passes: bool
    """Whether activations are counted."""

    @property
    def checkpoints(self) -> int:
        """Bytes that checkpoints take in the store at most."""
        return self.kept * self.checkpoint.total

    def with_host(self, host: Mapping[str, int]) -> int:
        """Return the bytes that a budget of memory counts, beside what another plan's process holds."""
        beside = {name: count for name, count in host.items() if name not in self.memory.host}
        return self.memory.device_total + (0 if self.memory.gpu else sum(beside.values()))

    def document(self) -> dict[str, Any]:
        """Return the plan as a run's record keeps it."""
        return {
            **{name: getattr(self, name) for name in ("parameters", "moving", "steps", "evaluations", "workers")},
            "memory": self.memory.document(),
            "peak_bytes": self.memory.device_total if self.passes else None,
            "checkpoint_bytes": self.checkpoint.total,
            "store_bytes": self.checkpoints,
        }


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a plan reads of a worker besides the model and the rows."""

    site: WorkerSite
    passes: PassMemory | None
    """The memory of its passes; None where it is not counted."""
    beside: Mapping[str, int]
    """What its process holds besides."""


class Planner:
    """Plans runs on one base and one set of rows, by models of shapes."""

    def __init__(self, header: BaseHeader, snapshot: Snapshot, processor: Any, site: WorkerSite) -> None:
        self.header, self.snapshot, self.processor, self.site = header, snapshot, processor, site

    def plan(self, spec: RunSpec, beside: Mapping[str, int]) -> RunPlan:
        """Return the plan of a spec whose training keys are numbers; `beside` is what the process holds besides."""
        adapted = self.adapted(spec)
        worker = WorkerFacts(self.site, self.passes(spec, adapted), beside)
        return plan_of(spec, adapted, self.snapshot, worker)

    def adapted(self, spec: RunSpec) -> Adapted:
        """Return the spec's model without values."""
        training = spec.training
        labels = self.snapshot.labels
        adaptation = Adaptation(
            task=spec.task, method=spec.method, labels=labels, seed=training.seed, dropout=training.dropout
        )
        adapted = meta_adapted(self.header, adaptation, self.processor)
        adapted.context = replace(adapted.context, augment=spec.data.augment, label_smoothing=training.label_smoothing)
        if spec.compute.activation_checkpointing:
            recompute_activations(adapted)
        return adapted

    def passes_of(self, spec: RunSpec) -> PassMemory | None:
        """Return the memory of a spec's passes; None where it cannot be counted."""
        try:
            return self.passes(spec, self.adapted(spec))
        except Exception as error:
            log.info("the model cannot be built without values: %s", error, exc_info=True)
            return None

    def passes(self, spec: RunSpec, adapted: Adapted) -> PassMemory | None:
        """Return the memory of passes over the largest rows of a micro-batch; None where it cannot be counted."""
        training = spec.training
        micro = -(-training.batch_size // (self.site.world * training.accumulation))
        try:
            batch = largest_batch(adapted, self.snapshot.train, micro, train=True)
            rows = self.snapshot.train if len(self.snapshot.train) > len(self.snapshot.eval) else self.snapshot.eval
            # Rows are evaluated, and outputs of a frozen part are computed, in batches of a size of their own.
            size = max(32, training.batch_size, BATCH if spec.method.depth_of(adapted.anatomy) else 0)
            evaluated = largest_batch(adapted, rows, size, train=False)
            accumulates = training.accumulation > 1
            return pass_memory(adapted, batch, evaluated, gpu=self.site.gpu, accumulates=accumulates)
        except Exception as error:  # a model or a task that asks for values: the rest of the plan stands
            log.info("activations are not counted: %s", error, exc_info=True)
            return None


def largest_batch(adapted: Adapted, rows: Rows, size: int, *, train: bool) -> Batch:
    """Return the batch of the longest rows."""
    order = rows.lengths.argsort(kind="stable")[::-1][:size].copy()
    return encoded(adapted, rows, order, train=train)


def plan_of(spec: RunSpec, adapted: Adapted, snapshot: Snapshot, worker: WorkerFacts) -> RunPlan:
    """Return the plan of a spec with its model, whose tensors may have values or not."""
    size, training, passes = model_bytes(adapted), spec.training, worker.passes
    rows = len(snapshot.train)
    steps = 1 if spec.method.closed_form else steps_of(training, rows)
    per_epoch = batches_per_epoch(rows, training.batch_size)
    every = training.eval_steps or (steps if spec.method.trains_features else per_epoch)
    evaluations = -(-steps // every) if len(snapshot.eval) else 0
    logged = 0 if spec.method.closed_form else steps
    state = state_bytes(training, logged, per_epoch, evaluations=evaluations, eval_rows=len(snapshot.eval))
    pauses = evaluations + (steps // training.checkpoint_steps if training.checkpoint_steps else 0)
    parameters = list(adapted.model.named_parameters())
    return RunPlan(
        task=spec.task.key(),
        method=spec.method.key(),
        base=spec.base,
        parameters=sum(one.numel() for _, one in parameters),
        moving=sum(one.numel() for _, one in parameters if one.requires_grad),
        depth=spec.method.depth_of(adapted.anatomy),
        blocks=len(adapted.anatomy.blocks),
        rows=snapshot.counts,
        steps=steps,
        evaluations=evaluations,
        workers=worker.site.world,
        memory=worker_memory(spec, size, worker.site, passes, beside=worker.beside),
        checkpoint=checkpoint_bytes(spec, adapted, passes.untouched if passes else (), state=state),
        kept=max(1, min(max(training.keep, training.soup) + LAST_KEPT, pauses)) + (training.soup > 1),
        passes=passes is not None,
    )


def process_bytes() -> int:
    """Return about how many bytes libraries hold in this process once a model is loaded; asked for before that."""
    return int(psutil.Process().memory_info().rss) + LATE_LIBRARIES


def processor_bytes(folder: Path) -> int:
    """Return about how many bytes the base's processor takes, from its files: a tokenizer's tables are larger."""
    names = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")
    return 4 * sum(os.path.getsize(folder / name) for name in names if (folder / name).is_file())


def default_site(spec: RunSpec) -> WorkerSite:
    """Return where the workers of a spec would train if they were on this machine."""
    workers = spec.compute.workers
    world = max(1, workers[1] if isinstance(workers, tuple) else workers)
    gpu = torch.cuda.is_available() and spec.compute.gpus != 0
    half = precision(spec.compute, torch.device("cuda" if gpu else "cpu")) != "no"
    return WorkerSite(world, world, gpu, half)
