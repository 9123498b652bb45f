"""A run that is asked to stop ends after its current step, with a checkpoint; the same command loses no step."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.stop_signals import StopNotice, on_sigterm
from support.processes import LEFT, StopsItself, in_child, on_ranks, train_counted, train_stopping
from support.tiny import document
from unit.training.test_resume import delta, last_state, last_tensors


def steps(row_log: Path) -> list[int]:
    return [int(line.split()[1]) for line in row_log.read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    written = document(tmp_path_factory.mktemp("leaving"))
    assert in_child(train_counted, written, f"{written['store']}.journal") == 0
    return written


def test_sigterm_ends_a_run_after_its_step_and_the_same_command_trains_no_step_twice(
    straight: dict[str, Any], tmp_path: Path
) -> None:
    written = {**straight, "store": str(tmp_path / "store")}
    assert in_child(train_stopping, written, str(tmp_path / "journal")) == LEFT
    run = Runs(open_store(written["store"])).info(RunSpec.resolve(written).run)
    assert run.state == "stopped"
    assert steps(tmp_path / "journal") == list(range(7)), "asked after step 5, every rank knows it in step 6"
    assert in_child(train_counted, written, str(tmp_path / "journal")) == 0
    assert steps(tmp_path / "journal") == list(range(16))
    assert delta(written) == delta(straight)
    assert last_tensors(written) == last_tensors(straight) and last_state(written) == last_state(straight)


def test_notice_on_one_rank_ends_all_of_them_at_the_same_step(straight: dict[str, Any], tmp_path: Path) -> None:
    written = {**straight, "store": str(tmp_path / "store")}
    with pytest.raises(Exception, match="no evaluated checkpoint"):
        on_ranks(2, written, str(tmp_path / "journal"), StopsItself)
    assert steps(tmp_path / "journal") == list(range(7))
    on_ranks(2, written, str(tmp_path / "journal"))
    assert steps(tmp_path / "journal") == list(range(16))


def test_a_second_sigterm_is_an_interrupt_and_the_handler_is_given_back() -> None:
    before, notice = signal.getsignal(signal.SIGTERM), StopNotice()
    with on_sigterm(notice):
        os.kill(os.getpid(), signal.SIGTERM)
        assert "SIGTERM" in notice.reason
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
