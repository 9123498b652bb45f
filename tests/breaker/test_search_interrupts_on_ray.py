"""Ctrl-C to the process group of `search` on a Ray of its own: each trial under way writes a checkpoint and goes on.

One search is interrupted at all moments, one after another. The long part has 20 of them (`pytest -m long`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from regraft.spec.run import RunSpec
from regraft.tuning.driver.local_worker import search_here
from support.interrupted_commands import RunningCommand, logged_steps, paced
from support.interrupts_on_ray import SEEDS, STEPS_AN_EPOCH, InterruptedSearch
from support.tiny import document
from unit.training.test_resume import delta

pytestmark = pytest.mark.timeout(600)
TRIALS = 3
SEARCH = {
    "space": {"training.lr": {"grid": [1e-4, 1e-2, 1e-3]}},
    "sampler": "grid",
    "scheduler": "none",
    "concurrency": 2,
}


def spec_of(folder: Path, epochs: int) -> dict[str, Any]:
    compute = {"workers": 1, "cpus": 1, "trunk": "off"}
    return {**document(folder, epochs=epochs), "search": SEARCH, "compute": compute}


@pytest.mark.slow
def test_interrupts_lose_at_most_the_steps_under_way(tmp_path: Path) -> None:
    interrupted_at(SEEDS, spec_of(tmp_path, epochs=6), tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_interrupts_lose_at_most_the_steps_under_way(tmp_path: Path) -> None:
    interrupted_at(range(20), spec_of(tmp_path, epochs=25), tmp_path)


def interrupted_at(seeds: Iterable[int], plain: dict[str, Any], folder: Path) -> None:
    """Interrupt a search at each moment, and let it go on to the end of an undisturbed one."""
    search = InterruptedSearch(folder, paced(folder, plain))
    search.interrupted_at(seeds)
    finished_as_undisturbed(search, plain)
    steps = range(STEPS_AN_EPOCH * search.epochs)
    assert Counter(logged_steps(folder)) == dict.fromkeys(steps, TRIALS), "each step is taken once a trial"


def finished_as_undisturbed(search: InterruptedSearch, plain: dict[str, Any]) -> None:
    """Let the same command go on to the end; its winner is that of an undisturbed search in one process."""
    search.finished()
    undisturbed = {**plain, "store": str(search.folder / "straight")}
    search_here(RunSpec.resolve(undisturbed))
    assert delta(search.written) == delta(undisturbed)


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    plain = spec_of(tmp_path, epochs=1)
    written = paced(tmp_path, plain, nap=60.0)  # the first one waits for steps
    command = RunningCommand(tmp_path, "search", "spec.yaml")
    command.steps_reach(1)
    command.interrupt()
    time.sleep(1.0)
    assert command.process.poll() is None
    command.interrupt()
    began = time.monotonic()
    assert command.ended() == 130, command.err[-3000:]
    took = time.monotonic() - began
    print(f"search: left within {took:.1f} s")
    assert took < 40, "without waiting for the steps under way"
    assert "Traceback" not in command.err, command.err[-3000:]
    finished_as_undisturbed(InterruptedSearch(tmp_path, written), plain)
