"""Ctrl-C is SIGTERM's equal: a checkpoint after the step under way, the true step, exit code 130; two leave at once."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.stop_signals import StopNotice, on_interrupt
from support.processes import in_child, interrupted_child, train_counted
from support.tiny import document

STEPS = 16
FAST = (11,)


def logged(row_log: Path) -> list[int]:
    """Return the numbers of the steps that were taken, over all attempts."""
    return [int(line.split()[1]) for line in row_log.read_text().splitlines()] if row_log.exists() else []


def test_the_first_is_a_notice_and_the_second_an_interrupt(capfd: pytest.CaptureFixture[str]) -> None:
    before, notice = signal.getsignal(signal.SIGINT), StopNotice()
    with on_interrupt(notice):
        os.kill(os.getpid(), signal.SIGINT)
        assert notice.interrupted and "Ctrl-C" in notice.reason
        assert "Ctrl-C again leaves at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_terminal_does_not_turn_the_stop_into_an_error() -> None:
    notice, kept = StopNotice(), os.dup(2)
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 2)
    try:
        with on_interrupt(notice):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.dup2(kept, 2)
        os.close(write)
        os.close(kept)
    assert notice.interrupted


def test_without_a_step_under_way_the_first_one_is_an_interrupt() -> None:
    notice = StopNotice()
    with on_interrupt(notice, lambda: False), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert not notice


def test_after_sigterm_one_leaves_at_once() -> None:
    notice = StopNotice()
    notice.give("SIGTERM")
    with on_interrupt(notice), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert not notice.interrupted


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return document(tmp_path_factory.mktemp("interrupts"))


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed in FAST else pytest.mark.slow) for seed in range(20)]
)
def test_an_interrupt_loses_at_most_the_step_under_way(base: dict[str, Any], tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    written = {**base, "store": str(tmp_path / "store")}
    row_log = tmp_path / "steps"
    asked = draw.randrange(0, STEPS - 2)
    code = interrupted_child(written, row_log, steps=asked, then=draw.random() * (0.5 if asked == 0 else 0.02))
    runs, run = Runs(open_store(written["store"])), RunSpec.resolve(written).run
    taken = logged(row_log)
    if code == 0:  # it ended before the signal came
        assert len(taken) == STEPS
        return
    assert code == 130
    newest = max((one.step for one in Checkpoints(runs.store, run).listed()), default=0)
    assert newest == len(taken), "the step under way is in the checkpoint"
    if taken:
        info = runs.info(run)
        assert (info.state, info.step) == ("stopped", len(taken))
    assert in_child(train_counted, written, str(row_log)) == 0
    assert logged(row_log) == list(range(STEPS)), "no step is taken twice, and none is left out"


def test_a_second_interrupt_leaves_at_once(base: dict[str, Any], tmp_path: Path) -> None:
    written = {**base, "store": str(tmp_path / "store")}
    assert interrupted_child(written, tmp_path / "steps", steps=4, then=0.0, times=2) == 130
    assert in_child(train_counted, written, str(tmp_path / "steps")) == 0
    assert set(logged(tmp_path / "steps")) == set(range(STEPS))
