"""A search ends with its best trial registered, whatever ended it in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.errors import AskedWrong, LeaseHeld, RunError, StoreError
from regraft.search.books import Books
from regraft.search.crew import WorkerDied
from regraft.search.drive import search_name
from regraft.search.here import LocalCrew
from regraft.search.trials import Trial, TrialRecord
from regraft.spec import RunSpec
from regraft.store.lease import Lease
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from unit.search.pretended import EPOCHS, PretendedCrew, a_spec, searched

RATES = {"training.lr": {"loguniform": [1e-5, 1e-1]}}


def records(spec: RunSpec) -> list[TrialRecord]:
    """What the search wrote down."""
    return Books(open_store(spec.store), search_name(spec)).trials()


def best_of(spec: RunSpec) -> str:
    """The trial with the best result, computed here."""
    return max(records(spec), key=lambda record: (record.best or {}).get("accuracy", -1)).id


def test_the_winner_is_a_version_that_says_how_to_make_it_again(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 6})
    outcome = searched(spec, PretendedCrew())
    assert (outcome.model, outcome.version, outcome.winner) == ("tiny", "v1", best_of(spec))
    assert len(outcome.trials) == 6
    assert {trial["status"] for trial in outcome.trials} == {"finished"}
    version = Registry(open_store(spec.store)).version("tiny")
    assert version.meta["metrics"] == outcome.metrics
    assert version.meta["lineage"]["search"]["trial"] == outcome.winner
    own = RunSpec.resolve(yaml.safe_load((tmp_path / "store" / version.prefix / "spec.yaml").read_text()))
    assert own.search is None
    assert own.training.lr == outcome.overrides["training.lr"]
    assert own == spec.model_copy(update={"search": None}).override(outcome.overrides)
    assert (tmp_path / "store" / "searches" / outcome.run / "report.html").is_file()
    assert set(outcome.document()) == {
        "model",
        "version",
        "run",
        "metrics",
        "baselines",
        "seconds",
        "store",
        "trials",
        "shared",
    }


def test_a_finished_search_runs_nothing_again_and_more_trials_go_on(tmp_path: Path) -> None:
    crew = PretendedCrew()
    first = searched(a_spec(tmp_path, {"space": RATES, "trials": 4}), crew)
    again = searched(a_spec(tmp_path, {"space": RATES, "trials": 4}), crew)
    assert again.already and not first.already
    assert (again.version, again.winner, again.trials) == (first.version, first.winner, first.trials)
    assert crew.ran == ["t0000", "t0001", "t0002", "t0003"]
    more = searched(a_spec(tmp_path, {"space": RATES, "trials": 6}), crew)
    assert crew.ran[4:] == ["t0004", "t0005"]
    assert more.run == first.run
    fresh = searched(a_spec(tmp_path, {"space": RATES, "trials": 4}), PretendedCrew(), fresh=True)
    assert fresh.run != first.run
    assert [trial["overrides"] for trial in fresh.trials] == [trial["overrides"] for trial in first.trials]


class Stopped(BaseException):
    """Ends a driver where it stands."""


def stopping(after: int) -> Callable[[Trial, int], None]:
    """Ends the driver after so many epochs of any trials."""
    left = iter(range(after))

    def during(trial: Trial, epoch: int) -> None:
        if next(left, None) is None:
            raise Stopped

    return during


def test_a_driver_that_ends_five_times_finds_the_same_winner_and_reruns_nothing(tmp_path: Path) -> None:
    search = {"space": RATES, "trials": 30}
    straight = searched(a_spec(tmp_path / "straight", search), PretendedCrew())
    spec, ran, draw = a_spec(tmp_path / "ended", search), [], random.Random(4)
    for _ in range(5):
        with pytest.raises(Stopped):
            searched(spec, PretendedCrew(during=stopping(draw.randint(5, 16)), ran=ran))
    outcome = searched(spec, PretendedCrew(ran=ran))
    assert outcome.winner == straight.winner
    assert outcome.metrics == straight.metrics
    assert len(outcome.trials) == 30
    assert [trial["metrics"] for trial in outcome.trials] == [trial["metrics"] for trial in straight.trials]
    assert len(ran) <= 30 + 5, "only what was under way begins again"
    assert all(len(record.reports) == EPOCHS for record in records(spec))


KILLED = """
import os, signal, sys
from pathlib import Path
from unit.search.pretended import PretendedCrew, a_spec, searched

left = [int(sys.argv[2])]

def during(trial, epoch):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

crew = PretendedCrew(during=during)
space = {"training.lr": {"loguniform": [1e-5, 1e-1]}}
outcome = searched(a_spec(Path(sys.argv[1]), {"space": space, "trials": 30}), crew)
print(outcome.winner)
"""


@pytest.mark.slow
def test_a_killed_driver_goes_on_with_what_it_wrote_down(tmp_path: Path) -> None:
    straight = searched(a_spec(tmp_path / "straight", {"space": RATES, "trials": 30}), PretendedCrew())
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
    outcome = searched(spec, PretendedCrew(during=during))
    states = [trial["status"] for trial in outcome.trials]
    assert states == ["finished", "finished", "failed", "finished", "finished"]
    assert "this one cannot" in str(records(spec)[2].error)


def test_a_worker_that_dies_loses_only_what_was_under_way(tmp_path: Path) -> None:
    died: list[str] = []

    def during(trial: Trial, epoch: int) -> None:
        if trial.number == 3 and epoch == 2 and not died:
            died.append(trial.id)
            raise WorkerDied("gone")

    crew = PretendedCrew(during=during)
    outcome = searched(a_spec(tmp_path, {"space": RATES, "trials": 5}), crew)
    assert {trial["status"] for trial in outcome.trials} == {"finished"}
    assert crew.ran.count("t0003") == 2
    assert len(crew.ran) == 6


def test_a_trial_that_always_ends_its_worker_is_given_up(tmp_path: Path) -> None:
    def during(trial: Trial, epoch: int) -> None:
        if trial.number == 1:
            raise WorkerDied("gone")

    spec = a_spec(tmp_path, {"space": RATES, "trials": 3}, compute={"workers": 0, "max_failures": 2})
    crew = PretendedCrew(during=during)
    outcome = searched(spec, crew)
    assert [trial["status"] for trial in outcome.trials] == ["finished", "failed", "finished"]
    assert crew.ran.count("t0001") == 3


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
    crew = PretendedCrew(during=during)
    crew.slots = 2
    with pytest.raises(StoreError):
        searched(spec, crew)
    assert {record.status for record in records(spec)} == {"waiting"}
    crew.during = lambda trial, epoch: None
    outcome = searched(spec, crew)
    assert [trial["status"] for trial in outcome.trials] == ["finished"] * 4


def test_nothing_begins_when_the_time_is_up(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "seconds": 1e-9})
    with pytest.raises(RunError, match=r"allow more search\.seconds"):
        searched(spec, PretendedCrew())
    outcome = searched(a_spec(tmp_path, {"space": RATES, "trials": 2}), PretendedCrew())
    assert len(outcome.trials) == 2


def test_all_trials_failing_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    def during(trial: Trial, epoch: int) -> None:
        raise ValueError("no luck")

    with pytest.raises(RunError, match=r"the first of 2 failed with: ValueError: no luck"):
        searched(a_spec(tmp_path, {"space": RATES, "trials": 2}), PretendedCrew(during=during))


@pytest.mark.parametrize(("register", "versions"), [("none", 0), ("best", 1), (3, 3)])
def test_as_many_become_versions_as_asked_and_the_best_is_the_newest(
    register: object, versions: int, tmp_path: Path
) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 5, "register": register})
    outcome = searched(spec, PretendedCrew())
    registry = Registry(open_store(spec.store))
    found = registry.versions("tiny") if versions else []
    assert len(found) == versions
    if versions:
        assert registry.version("tiny").meta["lineage"]["search"]["trial"] == outcome.winner
    else:
        assert outcome.version is None


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 2})
    name = search_name(spec)
    with Lease(open_store(spec.store), name, folder=f"searches/{name}"), pytest.raises(LeaseHeld):
        searched(spec, PretendedCrew())


def test_other_rows_are_another_search(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": RATES, "trials": 2})
    searched(spec, PretendedCrew())
    with (tmp_path / "train.csv").open("a") as file:
        file.write("a lamp,light\n")
    with pytest.raises(AskedWrong, match="the rows have changed since search"):
        searched(spec, PretendedCrew())


def test_a_line_that_cannot_be_read_is_a_trial_that_runs_again(tmp_path: Path) -> None:
    spec, crew = a_spec(tmp_path, {"space": RATES, "trials": 3}), PretendedCrew()
    first = searched(spec, crew)
    path = tmp_path / "store" / "searches" / search_name(spec) / "trials.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], lines[2][:40]]))
    again = searched(spec, crew)
    assert crew.ran == ["t0000", "t0001", "t0002", "t0002"]
    assert again.trials == first.trials


def mount(*arguments: str) -> None:
    """As root, where that is allowed."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk in memory; skipped where mounting is not permitted."""
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
        searched(spec, PretendedCrew(bytes=150_000, ran=ran))
    finished = {record.id for record in records(spec) if record.status == "finished"}
    assert 1 <= len(finished) < 12
    assert not any(record.status == "failed" for record in records(spec))
    mount("-o", "remount,size=20m", str(disk))
    outcome = searched(spec, PretendedCrew(bytes=150_000, ran=ran))
    assert {trial["status"] for trial in outcome.trials} == {"finished"}
    assert len(outcome.trials) == 12
    assert all(ran.count(trial) == 1 for trial in finished)
    assert outcome.version == "v1"


def test_a_trial_that_diverges_ends_alone_in_real_training(tmp_path: Path) -> None:
    space = {"training.lr": {"grid": [1e30, 1e-2]}, "method": {"grid": ["feature-extraction", "full"]}}
    spec = a_spec(tmp_path, {"space": space, "sampler": "grid", "scheduler": "none"})
    outcome = searched(spec, LocalCrew())
    found = {(one.overrides["method"], one.overrides["training.lr"]): one for one in records(spec)}
    assert found["full", 1e-2].status == found["feature-extraction", 1e-2].status == "finished"
    assert found["full", 1e30].status == "failed"
    assert "lower training.lr" in str(found["full", 1e30].error)
    assert outcome.overrides["training.lr"] == 0.01
