"""Ctrl-C to the process group of `train` on a Ray of its own: a checkpoint after the step under way, nothing left over.

One run is interrupted at all moments, one after another, and ends as if it had not been. The long part has 20 moments
for one and for two workers (`pytest -m long`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from regraft.store.objects import open_store
from regraft.store.runs import Runs
from support.interrupted_commands import RunningCommand, logged_steps, only_name, paced
from support.interrupts_on_ray import SEEDS, STEPS_AN_EPOCH, InterruptedRun
from support.processes import in_child, on_ranks, train_counted
from support.tiny import document
from unit.training.test_resume import delta

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base and of rows."""
    folder = tmp_path_factory.mktemp("interrupts")
    document(folder)
    return folder


def spec_of(base: Path, workers: int, epochs: int) -> dict[str, Any]:
    return {**document(base, epochs=epochs), "compute": {"workers": workers, "cpus": 1, "trunk": "off"}}


def straight(written: dict[str, Any], folder: Path) -> bytes:
    """Return the delta of an undisturbed run, without Ray."""
    undisturbed, steps = {**written, "store": str(folder / "straight")}, str(folder / "straight.steps")
    workers = written["compute"]["workers"]
    if workers == 1:
        assert in_child(train_counted, undisturbed, steps) == 0
    else:
        on_ranks(workers, undisturbed, steps)
    return delta(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_interrupts_lose_at_most_the_step_under_way(workers: int, base: Path, tmp_path: Path) -> None:
    interrupted_at(SEEDS, spec_of(base, workers, epochs=6), tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_interrupts_lose_at_most_the_step_under_way(workers: int, base: Path, tmp_path: Path) -> None:
    interrupted_at(range(20), spec_of(base, workers, epochs=25), tmp_path)


def interrupted_at(seeds: Iterable[int], plain: dict[str, Any], folder: Path) -> None:
    """Interrupt a run at each moment, and let it go on to the end of an undisturbed one."""
    written = paced(folder, plain)
    run = InterruptedRun(folder, written)
    run.interrupted_at(seeds)
    run.finished()
    steps = STEPS_AN_EPOCH * run.epochs
    assert logged_steps(folder) == list(range(steps)), "no step is taken twice, and none is left out"
    assert delta(written) == straight(plain, folder)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_second_interrupt_leaves_at_once(workers: int, base: Path, tmp_path: Path) -> None:
    plain = spec_of(base, workers, epochs=1)
    written = paced(tmp_path, plain, nap=60.0)  # the first one waits for a step
    command = RunningCommand(tmp_path, "train", "spec.yaml")
    command.steps_reach(1)
    command.interrupt()
    time.sleep(1.0)
    assert command.process.poll() is None
    command.interrupt()
    began = time.monotonic()
    assert command.ended() == 130, command.err[-3000:]
    took = time.monotonic() - began
    print(f"workers {workers}: left within {took:.1f} s")
    assert took < 40, "without waiting for the step under way"
    assert "Traceback" not in command.err, command.err[-3000:]
    assert Runs(open_store(written["store"])).info(only_name(written["store"])).state == "stopped"
    (tmp_path / "mine" / "nap").write_text("0")
    again = RunningCommand(tmp_path, "train", "spec.yaml")
    assert again.ended() == 0, again.err[-3000:]
    assert delta(written) == straight(plain, tmp_path)
