"""What a run leaves behind: its checkpoints and its log, and whom it tells of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from regraft.contracts import CheckpointWritten, Note, Started
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints, Retention
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.training.checkpoint_writer import Saver
from regraft.training.harness import Harness
from regraft.training.job import Job
from regraft.training.metrics_log import Tracker
from regraft.training.safetensors_buffer import take_part
from regraft.training.step import scaler_state
from regraft.training.trunk_cache import keep_trunk

if TYPE_CHECKING:
    from regraft.training.loop import Run


class Keeper(Protocol):
    """Whom the loop tells how a run goes."""

    checkpoints: Checkpoints
    """From where the run continues."""

    def begins(self, run: Run) -> None:
        """Before the first step of this attempt, when there is one to do."""
        ...

    def paused(self, run: Run, metrics: Mapping[str, float] | None) -> bool:
        """Between two steps, with the metrics where rows were evaluated; whether the run goes on."""
        ...

    def was_over(self, run: Run) -> None:
        """The newest checkpoint is the run's last: nothing is left to train."""
        ...

    def close(self) -> None:
        """The attempt is over, whole or by an error."""
        ...


class RunKeeper:
    """Keeps a run by itself: its documents, a checkpoint at every pause, its log, its TensorBoard file."""

    def __init__(self, spec: RunSpec, job: Job, store: ObjectStore, harness: Harness, folder: Path) -> None:
        self.job, self.harness = job, harness
        self.runs = Runs(store)
        self.checkpoints = Checkpoints(store, job.run)
        self.tracker = Tracker(store, job.run, folder / "tensorboard", write=harness.first)
        score = spec.task.score
        # Two last ones: should the newest be damaged, a resume has one to fall back on.
        retention = Retention(best=spec.training.keep, last=2, metric=score.name, mode=score.mode)
        self.saver = Saver(self.checkpoints, retention, pinned=harness.device.type == "cuda")

    def begins(self, run: Run) -> None:
        """The run in numbers, once; then what is frozen is computed, where that is to be kept."""
        parameters = list(run.adapted.model.parameters())
        if self.harness.first:
            self._note_bits()
        self.harness.emit(
            Started(
                run=self.job.run,
                model=run.spec.name,
                rows=len(run.snapshot.train),
                steps=run.steps,
                trainable=sum(p.numel() for p in parameters if p.requires_grad),
                total=sum(p.numel() for p in parameters),
                workers=self.harness.world,
            )
        )
        keep_trunk(run, self.runs)

    def paused(self, run: Run, metrics: Mapping[str, float] | None) -> bool:
        """Checkpoint, then report."""
        self.checkpoint(run, metrics)
        if metrics is not None:
            self.harness.report(metrics)
        return True

    def checkpoint(self, run: Run, metrics: Mapping[str, float] | None) -> None:
        """Snapshot on every rank (sharded tensors are gathered), write on the first."""
        tensors = run.tensors()
        if not self.harness.first:
            for live in tensors.values():
                take_part(live)
            return
        run.state.scaler = scaler_state(run.accelerator)
        meta = {"run": self.job.run, "step": run.state.step, "base": self.job.base_hash, "metrics": metrics or {}}
        lines = list(run.state.log)
        stall = self.saver.save(
            run.state.step, tensors, run.state.document(), meta, then=lambda saved: self.tracker.publish(lines)
        )
        self.harness.emit(CheckpointWritten(run.state.step, sum(self.saver.sizes.values()), stall))

    def was_over(self, run: Run) -> None:
        """Killed between the last commit and its publication: what is missing is the log."""
        self.tracker.publish(run.state.log)

    def close(self) -> None:
        """Drain the saver, end the tracker's file."""
        try:
            self.saver.close()
        finally:
            self.tracker.close()

    def _note_bits(self) -> None:
        """Record what the result's last bits depend on, and say so when a run goes on with something else."""
        now = {"threads": torch.get_num_threads(), "workers": self.harness.world, "device": self.harness.device.type}
        before = (self.runs.find(self.job.run) or {}).get("bits", now)
        if before != now:
            message = f"the run began with {before} and goes on with {now}: the result may differ in its last bits"
            self.harness.emit(Note(message))
        self.runs.update(self.job.run, bits=now)
