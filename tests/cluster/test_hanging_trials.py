"""A trial that hangs on Ray fails once `search.seconds` are over; its process is ended, the others' results count."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.test_ray_train import delta
from regraft.cluster.ray_harness import RayHarness
from regraft.cluster.search import search
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.tuning.driver import workers
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.local_worker import search_here
from regraft.tuning.driver.prepare import search_name
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.worker.context import TrialHarness
from support.interrupted_commands import hang_after, hung_process, logged_steps, paced
from support.tiny import document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STEPS = 16
SEARCH = {"space": {"training.lr": {"grid": [1e-3, 1e-4]}}, "sampler": "grid", "scheduler": "none", "concurrency": 1}


@pytest.mark.parametrize("way", ["asleep", "frozen"])
def test_a_trial_that_hangs_is_ended_by_the_seconds_and_the_others_count(
    way: str, tmp_path: Path, on_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for harness in (RayHarness, TrialHarness):  # the plugin replaces them, in this process too
        monkeypatch.setattr(harness, "consumed", harness.consumed)
    monkeypatch.setattr(workers, "GRACE_S", 1.0)
    monkeypatch.setattr("regraft.cluster.trial_actor.ANSWER_S", 1.0)
    compute = {"workers": 1, "cpus": 1, "trunk": "off"}
    plain = {**document(tmp_path), "search": {**SEARCH, "seconds": 100}, "compute": compute}
    written = paced(tmp_path, plain, nap=0.0)
    hang_after(tmp_path, STEPS + 3, way=way)
    over_when_it_hangs(tmp_path, monkeypatch)
    outcome = search(RunSpec.resolve(written))
    assert [trial["status"] for trial in outcome.trials] == ["finished", "failed"]
    assert (outcome.winner, outcome.version) == ("t0000", "v1")
    store, name = open_store(written["store"]), search_name(RunSpec.resolve(written))
    failed = SearchStore(store, name).trials()[1]
    assert "it hangs: search.seconds (100) are over" in str(failed.error)
    assert not list(Checkpoints.of_trial(store, name, "t0001").listed())
    assert len(logged_steps(tmp_path)) == STEPS + 4
    assert ended(hung_process(tmp_path)), "its process is ended"
    monkeypatch.undo()
    other = {**plain, "store": str(tmp_path / "other"), "search": {**SEARCH, "space": rate(1e-3)}}
    search_here(RunSpec.resolve(other))
    assert delta(RunSpec.resolve(written)) == delta(RunSpec.resolve(other)), "the winner is an undisturbed trial"


def over_when_it_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the search's seconds be over once the trial hangs, however long its start takes on a busy machine."""
    elapsed = SearchCoordinator.seconds.fget
    assert elapsed is not None

    def seconds(coordinator: SearchCoordinator) -> float:
        return float(elapsed(coordinator)) + 100 * (folder / "mine" / "hung").exists()

    monkeypatch.setattr(SearchCoordinator, "seconds", property(seconds))


def rate(value: float) -> dict[str, Any]:
    return {"training.lr": {"grid": [value]}}


def ended(process: int) -> bool:
    """Return whether a process ends within a few seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False
