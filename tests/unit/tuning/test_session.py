"""A search registers its best trial, whatever interrupts it in between."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from doubles.fake_pool import EPOCHS, FakePool, a_spec, searched
from regraft import load
from regraft.contracts import Event, Note
from regraft.errors import LeaseHeld, RequestError, RunError, StoreError
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.store.lease import Lease
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.tuning.driver.local_worker import LocalPool
from regraft.tuning.driver.prepare import search_name
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.driver.workers import WorkerDied
from regraft.tuning.protocol import Coordinator, End, Report, Trial
from regraft.tuning.records import TrialRecord
from regraft.units import bytes_text

RATES = {"training.lr": {"loguniform": [1e-5, 1e-1]}}


def records(spec: RunSpec) -> list[TrialRecord]:
    """Return the stored records of the search."""
    return SearchStore(open_store(spec.store), search_name(spec)).trials()


def best_of(spec: RunSpec) -> str:
    """Return the id of the trial with the best result, by the records."""
    return max(records(spec), key=lambda record: (record.best or {}).get("accuracy", -1)).id


def test_the_winner_is_a_version_that_says_how_to_make_it_again(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 6})
    outcome = searched(spec, FakePool())
    assert (outcome.model, outcome.version, outcome.winner) == ("tiny", "v1", best_of(spec))
    assert len(outcome.trials) == 6
    assert {trial["status"] for trial in outcome.trials} == {"finished"}
    version = Registry(open_store(spec.store)).version("tiny")
    assert version.meta["metrics"] == outcome.metrics
    assert version.meta["lineage"]["search"]["trial"] == outcome.winner
    own = RunSpec.resolve(yaml.safe_load((tmp_path / "store" / version.prefix / "spec.yaml").read_text()))
    assert own.search is None
    assert own.training.lr == outcome.overrides["training.lr"]
    trial = spec.model_copy(update={"search": None}).override(outcome.overrides)
    assert own == resolve_auto(trial, version.meta["lineage"]["data"]["rows"]["train"])
    assert (tmp_path / "store" / "searches" / outcome.run / "report.html").is_file()
    names = "model version run metrics baselines seconds store trials shared winner registered advice"
    assert set(outcome.document()) == set(names.split())


def test_a_finished_search_runs_nothing_again_and_more_trials_go_on(tmp_path: Path) -> None:
    pool = FakePool()
    first = searched(a_spec(tmp_path, {"space": RATES, "trials": 4}), pool)
    again = searched(a_spec(tmp_path, {"space": RATES, "trials": 4}), pool)
    assert again.already and not first.already
    assert (again.version, again.winner, again.trials) == (first.version, first.winner, first.trials)
    assert pool.ran == ["t0000", "t0001", "t0002", "t0003"]
    more = searched(a_spec(tmp_path, {"space": RATES, "trials": 6}), pool)
    assert pool.ran[4:] == ["t0004", "t0005"]
    assert more.run == first.run
    fresh = searched(a_spec(tmp_path, {"space": RATES, "trials": 4}), FakePool(), fresh=True)
    assert fresh.run != first.run
    assert [trial["overrides"] for trial in fresh.trials] == [trial["overrides"] for trial in first.trials]


class Stopped(BaseException):
    """Ends a driver at once."""


def stopping(after: int) -> Callable[[Trial, int], None]:
    """Return a hook that ends the driver after this number of epochs of any trials."""
    left = iter(range(after))

    def during(trial: Trial, epoch: int) -> None:
        if next(left, None) is None:
            raise Stopped

    return during


def test_a_driver_that_ends_five_times_finds_the_same_winner_and_reruns_nothing(tmp_path: Path) -> None:
    search = {"space": RATES, "trials": 30}
    straight = searched(a_spec(tmp_path / "straight", search), FakePool())
    spec, ran, draw = a_spec(tmp_path / "ended", search), [], random.Random(4)
    for _ in range(5):
        with pytest.raises(Stopped):
            searched(spec, FakePool(during=stopping(draw.randint(5, 16)), ran=ran))
    outcome = searched(spec, FakePool(ran=ran))
    assert outcome.winner == straight.winner
    assert outcome.metrics == straight.metrics
    assert len(outcome.trials) == 30
    assert [trial["metrics"] for trial in outcome.trials] == [trial["metrics"] for trial in straight.trials]
    assert len(ran) <= 30 + 5, "only what was under way begins again"
    assert all(len(record.reports) == EPOCHS for record in records(spec))


KILLED = """
import os, signal, sys
from pathlib import Path
from doubles.fake_pool import FakePool, a_spec, searched

left = [int(sys.argv[2])]

def during(trial, epoch):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

pool = FakePool(during=during)
space = {"training.lr": {"loguniform": [1e-5, 1e-1]}}
outcome = searched(a_spec(Path(sys.argv[1]), {"space": space, "trials": 30}), pool)
print(outcome.winner)
"""


@pytest.mark.slow
def test_a_killed_driver_goes_on_with_what_it_wrote_down(tmp_path: Path) -> None:
    straight = searched(a_spec(tmp_path / "straight", {"space": RATES, "trials": 30}), FakePool())
    spec = a_spec(tmp_path / "killed", {"space": RATES, "trials": 30})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done: dict[str, list[Any]] = {}
    draw = random.Random(2)
    for count in (*(draw.randint(4, 17) for _ in range(5)), 10_000):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(count)]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert ended.returncode == (0 if count == 10_000 else -signal.SIGKILL), ended.stderr
        now = {record.id: record.reports for record in records(spec) if record.status == "finished"}
        assert all(now[trial] == reports for trial, reports in done.items()), "what was finished is as it was"
        done = now
    assert len(done) == 30
    assert ended.stdout.strip() == straight.winner


def test_what_one_trial_raises_ends_that_trial_alone(tmp_path: Path) -> None:
    def during(trial: Trial, epoch: int) -> None:
        if trial.number == 2 and epoch == 2:
            raise ValueError("this one cannot")

    spec = a_spec(tmp_path, {"space": RATES, "trials": 5})
    outcome = searched(spec, FakePool(during=during))
    states = [trial["status"] for trial in outcome.trials]
    assert states == ["finished", "finished", "failed", "finished", "finished"]
    assert "this one cannot" in str(records(spec)[2].error)


def test_a_worker_that_dies_loses_only_what_was_under_way(tmp_path: Path) -> None:
    died: list[str] = []

    def during(trial: Trial, epoch: int) -> None:
        if trial.number == 3 and epoch == 2 and not died:
            died.append(trial.id)
            raise WorkerDied("gone")

    pool = FakePool(during=during)
    outcome = searched(a_spec(tmp_path, {"space": RATES, "trials": 5}), pool)
    assert {trial["status"] for trial in outcome.trials} == {"finished"}
    assert pool.ran.count("t0003") == 2
    assert len(pool.ran) == 6


def test_a_trial_that_always_ends_its_worker_is_given_up(tmp_path: Path) -> None:
    def during(trial: Trial, epoch: int) -> None:
        if trial.number == 1:
            raise WorkerDied("gone")

    spec = a_spec(tmp_path, {"space": RATES, "trials": 3}, compute={"workers": 0, "max_failures": 2})
    pool = FakePool(during=during)
    outcome = searched(spec, pool)
    assert [trial["status"] for trial in outcome.trials] == ["finished", "failed", "finished"]
    assert pool.ran.count("t0001") == 3


def test_what_other_slots_run_is_not_ended_by_an_error_of_one(tmp_path: Path) -> None:
    began, left = threading.Event(), threading.Event()

    def during(trial: Trial, epoch: int) -> None:
        if trial.number == 0 and epoch == 2:
            began.set()
            assert left.wait(60)
        if trial.number == 1:
            assert began.wait(60)
            threading.Timer(0.3, left.set).start()
            raise StoreError("the disk or quota is full")

    spec = a_spec(tmp_path, {"space": RATES, "trials": 4}, method="full")
    pool = FakePool(during=during)
    pool.slots = 2
    with pytest.raises(StoreError):
        searched(spec, pool)
    assert {record.status for record in records(spec)} == {"waiting"}
    pool.during = lambda trial, epoch: None
    outcome = searched(spec, pool)
    assert [trial["status"] for trial in outcome.trials] == ["finished"] * 4


class Late:
    """A coordinator that forwards a trial's first report only after the driver has left the search."""

    def __init__(self, coordinator: Any, began: threading.Event) -> None:
        self._coordinator, self._began = coordinator, began

    def report(self, trial: str, report: Report) -> bool:
        self._began.set()
        for _ in range(600):
            if self._coordinator.left:
                break
            time.sleep(0.1)
        return bool(self._coordinator.report(trial, report))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coordinator, name)


class OneFails(LocalPool):
    """A pool of two slots; the disk of the second is full as soon as the first trains."""

    slots = 2

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()

    def ready(self, slot: int, coordinator: Any) -> None:
        if slot == 0:
            super().ready(slot, coordinator)

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Any) -> None:
        if slot == 1:
            assert self.began.wait(120)
            raise StoreError("the disk or quota is full")
        super().work(slot, trials, Late(coordinator, self.began))


@pytest.mark.parametrize("method", [pytest.param("feature-extraction", marks=pytest.mark.slow), "full"])
@pytest.mark.slow
def test_what_trains_while_the_driver_goes_is_not_taken_for_over(method: str, tmp_path: Path) -> None:
    search = {"space": {**RATES, "training.epochs": {"choice": [3]}}, "trials": 66, "register": "none"}
    if method == "full":
        search["trials"] = 2
    compute = {"workers": 0, "cpus": 1, "trunk": "memory" if method == "feature-extraction" else "off"}
    spec = a_spec(tmp_path, {**search, "scheduler": "none"}, method=method, compute=compute)
    with pytest.raises(StoreError):
        searched(spec, OneFails())
    assert {record.status for record in records(spec)} == {"waiting"}
    searched(spec, LocalPool())
    assert {record.status for record in records(spec)} == {"finished"}
    assert {len(record.reports) for record in records(spec)} == {3}


class NoCentroid(FakePool):
    """A pool whose baseline run fails with this message."""

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        for trial in trials:
            if trial.number < 0:
                coordinator.ended(trial.id, End("failed", 0.0, error="the head of a decoder reads no vector for a row"))
        super().work(slot, trials, coordinator)


def test_a_baseline_that_cannot_be_measured_is_said_in_words(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 1}).override({"training.baselines": True})
    seen: list[Event] = []
    searched(spec, NoCentroid(), seen.append)
    notes = [event.message for event in seen if isinstance(event, Note)]
    wanted = "the search goes on without the nearest-centroid baseline: the head of a decoder reads no vector for a row"
    assert wanted in notes


@pytest.mark.parametrize(
    "method", ["feature-extraction", pytest.param({"type": "freeze", "depth": 1}, marks=pytest.mark.slow)]
)
def test_the_registered_winner_is_what_the_search_measured(method: Any, tmp_path: Path) -> None:
    """The model loaded from the registry has the reported metrics on the evaluation rows."""
    rates = {"training.lr": {"grid": [1e-4, 3e-3, 0.1]}, "training.seed": {"grid": [0, 5]}}
    search = {"space": rates, "sampler": "grid", "scheduler": "none"}
    training = {"epochs": 4, "eval_steps": 3, "class_weights": "balanced"}
    compute = {"workers": 0, "cpus": 1, "trunk": "memory"}
    spec = a_spec(tmp_path, search, method=method, training=training, compute=compute)
    outcome = searched(spec, LocalPool())
    with (tmp_path / "eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    predictor = load(f"tiny@{outcome.version}", store=spec.store)
    answers = [answer["label"] for answer in predictor.predict([{"text": row["text"]} for row in rows])]
    right = [answer == row["label"] for answer, row in zip(answers, rows, strict=True)]
    assert sum(right) / len(rows) == pytest.approx(outcome.metrics["accuracy"], abs=1e-9)
    assert outcome.metrics["accuracy"] == max(
        report["metrics"]["accuracy"] for record in records(spec) for report in record.reports
    )
    assert set(outcome.baselines) == {"majority", "nearest_centroid"}


def test_a_version_has_the_metrics_of_its_own_checkpoint(tmp_path: Path) -> None:
    """There was no space for the checkpoint of the best evaluation."""

    class Full(FakePool):
        def work(self, slot: int, trials: Sequence[Trial], coordinator: Any) -> None:
            reserve = coordinator.budget.reserve
            coordinator.budget.reserve = lambda trial, count: (
                coordinator.records()[0].reports == [] and reserve(trial, count)
            )
            super().work(slot, trials, coordinator)

    spec = a_spec(tmp_path, {"space": RATES, "trials": 1})
    notes: list[str] = []
    outcome = searched(spec, Full(), progress=lambda event: notes.append(getattr(event, "message", "")))
    version = Registry(open_store(spec.store)).version("tiny")
    assert version.meta["metrics"]["accuracy"] == records(spec)[0].reports[0]["metrics"]["accuracy"]
    assert version.meta["metrics"]["accuracy"] < outcome.metrics["accuracy"]
    assert any("the checkpoint of its best evaluation did not fit" in note for note in notes)


def test_nothing_begins_when_the_time_is_up(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "seconds": 1e-9})
    with pytest.raises(RunError, match=r"allow more search\.seconds"):
        searched(spec, FakePool())
    outcome = searched(a_spec(tmp_path, {"space": RATES, "trials": 2}), FakePool())
    assert len(outcome.trials) == 2


def test_all_trials_failing_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    def during(trial: Trial, epoch: int) -> None:
        raise ValueError("no luck")

    with pytest.raises(RunError, match=r"the first of 2 failed with: ValueError: no luck"):
        searched(a_spec(tmp_path, {"space": RATES, "trials": 2}), FakePool(during=during))


@pytest.mark.parametrize(("register", "versions"), [("none", 0), ("best", 1), (3, 3)])
def test_as_many_become_versions_as_asked_and_the_best_is_the_newest(
    register: object, versions: int, tmp_path: Path
) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 5, "register": register})
    outcome = searched(spec, FakePool())
    registry = Registry(open_store(spec.store))
    found = registry.versions("tiny") if versions else []
    assert len(found) == versions
    if versions:
        assert registry.version("tiny").meta["lineage"]["search"]["trial"] == outcome.winner
    else:
        assert outcome.version is None


@pytest.mark.parametrize("count", [512, 3e4, 2e7, 4e10, 1.2e12], ids=bytes_text)
def test_a_note_of_several_workers_is_shown_once_whatever_they_measured(count: float, tmp_path: Path) -> None:
    class Noting(FakePool):
        def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
            for part in (1.0, 1.1):
                coordinator.emit(Note(f"{2 * part:.2g} ms to read a row, {bytes_text(part * count)} are free"))
            super().work(slot, trials, coordinator)

    events: list[Event] = []
    searched(a_spec(tmp_path, {"space": RATES, "trials": 2}), Noting(), progress=events.append)
    assert [bytes_text(count) in event.message for event in events if isinstance(event, Note)] == [True]


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 2})
    name = search_name(spec)
    with Lease(open_store(spec.store), name, folder=f"searches/{name}"), pytest.raises(LeaseHeld):
        searched(spec, FakePool())


def test_other_rows_are_another_search(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 2})
    searched(spec, FakePool())
    with (tmp_path / "train.csv").open("a") as file:
        file.write("a lamp,light\n")
    events: list[Event] = []
    other = searched(spec, FakePool(), progress=events.append)
    assert other.run == f"{search_name(spec)}.2"
    assert any("the rows have changed since search" in event.message for event in events if isinstance(event, Note))
    assert searched(spec, FakePool()).run == other.run, "the newest"
    with (tmp_path / "train.csv").open("a") as file:
        file.write("a lamp,light\n")
    with pytest.raises(RequestError, match="the rows have changed since search"):
        searched(spec, FakePool(), same=True)


def test_a_line_that_cannot_be_read_is_a_trial_that_runs_again(tmp_path: Path) -> None:
    spec, pool = a_spec(tmp_path, {"space": RATES, "trials": 3}), FakePool()
    first = searched(spec, pool)
    path = tmp_path / "store" / "searches" / search_name(spec) / "trials.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], lines[2][:40]]))
    again = searched(spec, pool)
    assert pool.ran == ["t0000", "t0001", "t0002", "t0002"]
    assert again.trials == first.trials


def mount(*arguments: str) -> None:
    """Run mount, which needs root."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk in memory; skip the test if mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk cannot be mounted here: {getattr(error, 'stderr', b'').decode() or error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_a_search_that_goes_on_when_there_is_room(tmp_path: Path, disk: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 12, "keep": 12}, store=str(disk / "store"))
    ran: list[str] = []
    with pytest.raises(StoreError, match="the disk or quota is full"):
        searched(spec, FakePool(bytes=150_000, ran=ran))
    finished = {record.id for record in records(spec) if record.status == "finished"}
    assert 1 <= len(finished) < 12
    assert not any(record.status == "failed" for record in records(spec))
    mount("-o", "remount,size=20m", str(disk))
    outcome = searched(spec, FakePool(bytes=150_000, ran=ran))
    assert {trial["status"] for trial in outcome.trials} == {"finished"}
    assert len(outcome.trials) == 12
    assert all(ran.count(trial) == 1 for trial in finished)
    assert outcome.version == "v1"


@pytest.mark.slow
def test_a_trial_that_diverges_ends_alone_in_real_training(tmp_path: Path) -> None:
    space = {"training.lr": {"grid": [1e30, 1e-2]}, "method": {"grid": ["feature-extraction", "full"]}}
    spec = a_spec(tmp_path, {"space": space, "sampler": "grid", "scheduler": "none"})
    outcome = searched(spec, LocalPool())
    found = {(one.overrides["method"], one.overrides["training.lr"]): one for one in records(spec)}
    assert found["full", 1e-2].status == found["feature-extraction", 1e-2].status == "finished"
    assert found["full", 1e30].status == "failed"
    assert "lower training.lr" in str(found["full", 1e30].error)
    assert outcome.overrides["training.lr"] == 0.01
