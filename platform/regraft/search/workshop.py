"""One worker of a search: trials one after another, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from regraft.data.snapshot import open_snapshot
from regraft.errors import StoreError
from regraft.search.register import checkpoints_of
from regraft.search.trials import Desk, End, Report, SearchJob, Trial
from regraft.spec import RunSpec
from regraft.store.objects import open_store
from regraft.training.evaluate import evaluate as evaluated
from regraft.training.evaluate import packed
from regraft.training.harness import Harness
from regraft.training.job import Job
from regraft.training.loop import Run, build


class Workshop:
    """Runs trials of one search."""

    def __init__(self, job: SearchJob, harness: Harness, folder: Path) -> None:
        self.job, self.harness, self.folder = job, harness, folder
        self.spec = RunSpec.resolve(job.spec)
        self.store = open_store(self.spec.store)

    def prepare(self, desk: Desk) -> None:
        """Open the rows."""
        if self.job.threads:
            torch.set_num_threads(self.job.threads)
        self.snapshot = open_snapshot(self.store, self.job.fingerprint)

    def run(self, trials: Sequence[Trial], desk: Desk) -> None:
        """Run trials to their ends."""
        for trial in trials:
            try:
                self._one(trial, desk)
            except StoreError:
                raise
            except Exception as error:
                desk.ended(trial.id, End("failed", 0.0, error=" ".join(f"{type(error).__name__}: {error}".split())))

    def _one(self, trial: Trial, desk: Desk) -> None:
        spec = trial.spec(self.spec)
        job = Job(
            spec.model_dump(mode="json"),
            f"{self.job.search}/{trial.id}",
            self.job.base_hash,
            self.job.fingerprint,
            self.job.labels,
            self.job.threads,
        )
        adapted = build(spec, job, self.snapshot, self.harness)
        run = _Run(spec, job, self.store, self.snapshot, adapted, self.harness, self.folder)
        run.checkpoints = checkpoints_of(self.store, self.job.search, trial.id)
        run.desk, run.trial, run.best_prefix = desk, trial.id, None
        run.train()
        sizes = [p.numel() for p in adapted.model.parameters()]
        moving = sum(p.numel() for p in adapted.model.parameters() if p.requires_grad)
        desk.ended(
            trial.id,
            End(
                "stopped" if run.stopped else "finished",
                run.state.seconds,
                run.best_prefix,
                depth=spec.method.depth_of(adapted.anatomy),
                blocks=len(adapted.anatomy.blocks),
                trainable=moving,
                total=sum(sizes),
                correct=run.state.best_correct,
            ),
        )

    def close(self) -> None:
        """Nothing to do."""


class _Run(Run):
    desk: Desk
    trial: str
    best_prefix: str | None
    stopped = False

    def pause(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.check(loss, norm)
        before = self.state.best
        metrics = self.evaluate()
        name = self.spec.task.score.name
        if self.state.best != before:
            from safetensors.torch import save

            from regraft.bases.delta import live_tensors

            delta = save(
                {key: value.detach().clone().contiguous() for key, value in live_tensors(self.adapted).items()}
            )
            if self.desk.room(self.trial, len(delta)):
                meta = {"base": self.job.base_hash, "metrics": metrics}
                saved = self.checkpoints.save(self.state.step, {"delta.safetensors": delta, "state.json": b"{}"}, meta)
                self.best_prefix = saved.prefix
                self.desk.saved(self.trial, saved.prefix, len(delta), metrics[name])
        report = Report(self.state.step, self.state.step / self.per_epoch, metrics, self.state.seconds)
        if not self.desk.report(self.trial, report) and not self.state.finished:
            self.state.finished = self.stopped = True

    def announce(self) -> None:
        pass

    def resumed_at_its_end(self) -> bool:
        return False


_ = packed, evaluated
