"""`regraft search` with a trial that hangs in this very process: the command ends, with all that it prints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.tuning.driver.search_store import SearchStore
from support.interrupted_commands import RunningCommand, hang_after, logged_steps, only_name, paced
from support.tiny import document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STEPS = 16
SEARCH = {"space": {"training.lr": {"grid": [1e-3, 1e-4]}}, "sampler": "grid", "scheduler": "none"}
IMPATIENT = "from regraft.tuning.driver import workers\nworkers.GRACE_S = 0.5"


def hanging(folder: Path, **search: Any) -> dict[str, Any]:
    """Return a spec whose second trial hangs in a call that Python cannot interrupt."""
    compute = {"workers": 0, "cpus": 1, "trunk": "off"}
    written = paced(folder, {**document(folder), "search": {**SEARCH, **search}, "compute": compute}, nap=0.0)
    hang_after(folder, STEPS + 3)
    return written


def test_a_command_that_leaves_a_hanging_trial_behind_prints_all_and_ends(tmp_path: Path) -> None:
    written = hanging(tmp_path, seconds=25)
    command = RunningCommand(tmp_path, "search", "spec.yaml", "--json", code=IMPATIENT)
    assert command.ended() == 0, command.err[-3000:]
    printed = json.loads(command.out)
    assert [trial["status"] for trial in printed["trials"]] == ["finished", "failed"]
    assert printed["version"] == Registry(open_store(written["store"])).version("tiny").version
    assert "Traceback" not in command.err and "Fatal" not in command.err


def test_a_second_interrupt_leaves_a_hanging_trial_behind_and_the_same_command_goes_on(tmp_path: Path) -> None:
    written = hanging(tmp_path)
    command = RunningCommand(tmp_path, "search", "spec.yaml")
    command.steps_reach(STEPS + 4)
    command.interrupt()
    time.sleep(1.0)
    assert command.process.poll() is None, "the first one waits for the step under way"
    command.interrupt()
    began = time.monotonic()
    assert command.ended() == 130
    assert time.monotonic() - began < 60
    assert "Traceback" not in command.err and "Fatal" not in command.err, command.err[-3000:]
    store = SearchStore(open_store(written["store"]), only_name(written["store"], "searches"))
    record = store.record()
    assert record is not None and record.state == "stopped"
    assert [one.status for one in store.trials()] == ["finished", "waiting"]
    (tmp_path / "mine" / "hang").unlink()
    again = RunningCommand(tmp_path, "search", "spec.yaml")
    assert again.ended() == 0, again.err[-3000:]
    assert set(logged_steps(tmp_path)) == set(range(STEPS))
