"""A coordinator for tests, which records every call, and workers that run trials with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from regraft.bases.locate import locate
from regraft.contracts import Event, Note, TrunkShared
from regraft.data.snapshot import build_snapshot
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.harness import LocalHarness
from regraft.tuning.protocol import End, JobBase, Report, SearchJob, Trial
from regraft.tuning.worker.worker import TrialWorker


class FakeCoordinator:
    """Records reports and ends by trial; it can stop trials and refuse space."""

    def __init__(
        self, *, stop: Mapping[str, int] | None = None, reserve: Callable[[str, int], bool] | None = None
    ) -> None:
        """`stop` maps a trial to the number of reports after which it ends; `reserve` answers requests for space."""
        self.reports: dict[str, list[Report]] = {}
        self.ends: dict[str, End] = {}
        self.kept: list[tuple[str, str, int, float | None]] = []
        self.asked: list[tuple[str, int]] = []
        self.events: list[Event] = []
        self._stop, self._reserve = dict(stop or {}), reserve

    def report(self, trial: str, report: Report) -> bool:
        assert trial not in self.ends
        self.reports.setdefault(trial, []).append(report)
        return len(self.reports[trial]) != self._stop.get(trial, -1)

    def reserve(self, trial: str, count: int) -> bool:
        self.asked.append((trial, count))
        return self._reserve is None or self._reserve(trial, count)

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        self.kept.append((trial, prefix, count, score))

    def ended(self, trial: str, end: End) -> None:
        assert trial not in self.ends
        self.ends[trial] = end

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def curve(self, trial: str, name: str = "loss") -> list[float]:
        return [report.metrics[name] for report in self.reports[trial]]

    def notes(self) -> str:
        return "\n".join(event.message for event in self.events if isinstance(event, Note))

    def shared(self) -> dict[str, Any]:
        """Return the shared outputs' numbers, added up as the driver does."""
        found: dict[str, Any] = {}
        for event in self.events:
            if isinstance(event, TrunkShared):
                for name, value in event.document().items():
                    add = name in ("computed", "reused", "bytes", "saved_s")
                    found[name] = found.get(name, 0) + value if add else value
        return found


def job_of(
    written: Mapping[str, Any],
    *,
    search: str = "s",
    depths: Iterable[int | str] = (),
    bases: Mapping[str, Sequence[int | str]] | None = None,
) -> SearchJob:
    """Return the job that a driver would give a worker; `bases` are the depths of each of several bases."""
    spec = RunSpec.resolve(written)
    snapshot = build_snapshot(open_store(spec.store), spec.task, spec.data)
    spec = spec.model_copy(update={"task": spec.task.fit_to_rows(snapshot.train.numbers)})
    return SearchJob(
        spec=spec.model_dump(mode="json"),
        search=search,
        base_hash=locate(spec.base).hash,
        fingerprint=snapshot.fingerprint,
        labels=snapshot.labels,
        depths=tuple(depths),
        threads=1,
        bases=tuple(JobBase(base, locate(base).hash, tuple(own)) for base, own in (bases or {}).items()),
    )


def trials_of(*points: Mapping[str, Any]) -> list[Trial]:
    return [Trial(number, dict(point)) for number, point in enumerate(points)]


def prepared_worker(written: Mapping[str, Any], folder: Path, coordinator: FakeCoordinator, **more: Any) -> TrialWorker:
    """Return a worker that is ready to run trials."""
    folder.mkdir(parents=True, exist_ok=True)
    made = TrialWorker(job_of(written, **more), LocalHarness(), folder)
    made.prepare(coordinator)
    return made


def searched(written: Mapping[str, Any], folder: Path, *points: Mapping[str, Any], **more: Any) -> FakeCoordinator:
    """Run a trial for each point in one worker."""
    coordinator = more.pop("coordinator", None) or FakeCoordinator()
    made = prepared_worker(written, folder, coordinator, **more)
    made.run(trials_of(*points), coordinator)
    made.close()
    return coordinator


def computed_by_one(written: Mapping[str, Any], depths: Iterable[int | str], folder: str) -> None:
    """Prepare a worker in a process of its own, and write the number of computed rows into a file of its folder."""
    coordinator = searched(written, Path(folder), depths=depths)
    (Path(folder) / "computed").write_text(str(coordinator.shared()["computed"]))
