"""Callbacks of a run outside a search: its documents, checkpoints, log and TensorBoard file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from regraft.bases.delta import live_tensors
from regraft.contracts import CheckpointWritten, Note, Started
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints, Retention
from regraft.store.objects import ObjectStore
from regraft.store.runs import RunDocument, Runs
from regraft.training.checkpoint_writer import CheckpointWriter
from regraft.training.harness import Harness
from regraft.training.job import Job
from regraft.training.metrics_log import MetricsLog
from regraft.training.run import Run
from regraft.training.safetensors_buffer import gather_shards
from regraft.training.soup import soup_step
from regraft.training.step import scaler_state


class RunCallbacks:
    """The `Callbacks` of a run outside a search: a checkpoint at every pause, then a report."""

    def __init__(self, spec: RunSpec, job: Job, store: ObjectStore, harness: Harness, *, folder: Path) -> None:
        self.job, self.harness = job, harness
        self.planned: dict[str, Any] = {}
        """The plan that the run began with, for its record."""
        self.document = RunDocument(Runs(store), job.run)
        self.checkpoints = Checkpoints(store, job.run)
        self.metrics_log = MetricsLog(store, job.run, folder / "tensorboard", write=harness.first)
        score = spec.task.score
        # The last two, so that a resume has one to fall back on if the newest is damaged.
        retention = Retention(
            best=max(spec.training.keep, spec.training.soup), last=2, metric=score.name, mode=score.mode
        )
        self.writer = CheckpointWriter(self.checkpoints, retention, pinned=harness.device.type == "cuda")

    def on_start(self, run: Run) -> None:
        """Show the run's size, and record what the last bits of its result depend on."""
        parameters = list(run.adapted.model.named_parameters())
        if self.harness.first:
            self._record_bits()
        self.harness.emit(
            Started(
                run=self.job.run,
                model=run.spec.name,
                rows=len(run.snapshot.train),
                steps=run.steps,
                trainable=sum(p.numel() for name, p in parameters if name in run.trained),
                total=sum(p.numel() for _, p in parameters),
                workers=self.harness.world,
            )
        )

    def on_pause(self, run: Run, metrics: Mapping[str, float] | None) -> bool:
        """Write a checkpoint, then report metrics; the run always continues."""
        self.checkpoint(run, metrics)
        if metrics is not None:
            self.harness.report(metrics)
        return True

    def checkpoint(self, run: Run, metrics: Mapping[str, float] | None) -> None:
        """Copy the state on every rank, which gathers sharded tensors, and write it on the first."""
        tensors = run.tensors()
        if not self.harness.first:
            for live in tensors.values():
                gather_shards(live)
            return
        run.state.scaler = scaler_state(run.accelerator)
        meta = {"run": self.job.run, "step": run.state.step, "base": self.job.base_hash, "metrics": metrics or {}}
        lines = list(run.state.log)
        stall = self.writer.save(
            run.state.step, tensors, run.state.document(), meta=meta, then=lambda _: self.metrics_log.publish(lines)
        )
        self.harness.emit(CheckpointWritten(run.state.step, sum(self.writer.sizes.values()), stall))

    def on_soup(self, run: Run, metrics: Mapping[str, float], steps: Sequence[int]) -> None:
        """Write the average of several checkpoints as the one after the last step; called on every rank."""
        live, state = live_tensors(run.adapted), run.state
        if not self.harness.first:
            gather_shards(live)
            return
        score = {f"soup_{name}": value for name, value in metrics.items()}
        state.log.append({"step": state.step, "epoch": state.step / run.per_epoch, **score})
        meta = {"run": self.job.run, "base": self.job.base_hash, "metrics": dict(metrics), "soup": list(steps)}
        lines = list(state.log)
        self.writer.save(
            soup_step(run),
            {"delta.safetensors": live},
            state.document(),
            meta=meta,
            then=lambda _: self.metrics_log.publish(lines),
        )
        self.writer.wait()

    def on_already_finished(self, run: Run) -> None:
        """Publish the log, which is missing if the process was killed after the last commit."""
        self.metrics_log.publish(run.state.log)

    def on_test(self, run: Run, line: Mapping[str, Any]) -> None:
        """Publish the log with the line of the test rows, which no checkpoint holds."""
        self.metrics_log.publish([*run.state.log, line])

    def wait(self) -> None:
        """Wait until every checkpoint so far is in the store. Raises the error of one that could not be written."""
        self.writer.wait()

    def close(self) -> None:
        """Wait for the last checkpoint and end the TensorBoard file."""
        try:
            self.writer.close()
        finally:
            self.metrics_log.close()

    def _record_bits(self) -> None:
        """Store what the last bits of the result depend on; emit a note if a resumed run differs in it."""
        now = {"threads": torch.get_num_threads(), "workers": self.harness.world, "device": self.harness.device.type}
        before = self.document.read().get("bits", now)
        if before != now:
            message = f"the run began with {before} and goes on with {now}: the result may differ in its last bits"
            self.harness.emit(Note(message))
        self.document.update(bits=now, **({"plan": self.planned} if self.planned else {}))
