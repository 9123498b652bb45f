"""A budget is refused where it cannot hold the run, and ends a run at a step from which it goes on."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from regraft.cli import main
from regraft.errors import RequestError, Stopped
from regraft.serving.batch.session import BatchRequest, predict_here
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training import budget_guard, session
from regraft.training.harness import LocalHarness
from regraft.training.job import RunState
from regraft.training.loop import fit
from regraft.training.prepare import PreparedRun
from regraft.training.session import train_local
from regraft.training.stages import after_stages
from regraft.tuning.driver.local_worker import search_here
from regraft.tuning.driver.prepare import search_name
from support.tiny import document, tickets


class SlowMachine(LocalHarness):
    """A machine on which a step takes a while, by the clock of budgets."""

    step_s = 100.0

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.ahead = 0.0
        patch.setattr("regraft.training.run_times.now", lambda: time.time() + self.ahead)

    def consumed(self, step: int, rows: np.ndarray) -> None:
        self.ahead += self.step_s


def test_a_budget_is_no_part_of_the_name_and_is_stored_only_where_it_is_written(tmp_path: Path) -> None:
    written = document(tmp_path)
    spec, limited = RunSpec.resolve(written), RunSpec.resolve({**written, "budget": {"seconds": 60}})
    assert spec.run == limited.run
    assert "budget" not in spec.model_dump(mode="json")
    assert limited.model_dump(mode="json")["budget"] == {"seconds": 60.0}
    assert RunSpec.resolve(limited.model_dump(mode="json")) == limited
    space = {"space": {"training.lr": {"grid": [1e-3]}}}
    searched = RunSpec.resolve({**written, "search": space, "budget": {"seconds": 60, "store_gb": 1}})
    assert search_name(searched) == search_name(RunSpec.resolve({**written, "search": space}))
    assert (searched.searched().seconds, searched.searched().quota_gb) == (60, 1)
    both = RunSpec.resolve({**written, "search": {**space, "seconds": 30}, "budget": {"seconds": 60}})
    assert both.searched().seconds == 30


def test_a_run_ends_within_a_step_of_its_seconds_and_goes_on_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {**document(tmp_path), "budget": {"seconds": 950}}
    monkeypatch.setattr(session, "LocalHarness", lambda progress=None: SlowMachine(monkeypatch))
    with pytest.raises(Stopped, match=r"budget.seconds: 950 are about to be spent.*larger budget goes on"):
        train_local(RunSpec.resolve(written))
    runs = Runs(open_store(written["store"]))
    (info,) = runs.list()
    assert info.state == "stopped" and info.step in (10, 11)  # the tenth ends in time, and its end is seen after it
    assert 950 < info.fields["spent_s"] <= 950 + 2 * SlowMachine.step_s
    with pytest.raises(RequestError, match=r"budget.seconds: 950 are spent, .*write more"):
        train_local(RunSpec.resolve(written))
    monkeypatch.undo()
    outcome = train_local(RunSpec.resolve({**written, "budget": {"seconds": 9000}}))
    assert outcome.run == info.name
    assert info.fields["spent_s"] < (runs.find(info.name) or {})["spent_s"] < info.fields["spent_s"] + 300
    assert (runs.find(info.name) or {})["outcome"]["resumed"]


def test_the_steps_that_are_left_are_held_against_the_seconds_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = {**document(tmp_path), "budget": {"seconds": 950}}
    with monkeypatch.context() as slow:
        slow.setattr(session, "LocalHarness", lambda progress=None: SlowMachine(slow))
        with pytest.raises(Stopped):
            train_local(RunSpec.resolve(written))
    (info,) = Runs(open_store(written["store"])).list()
    monkeypatch.setattr(budget_guard, "_row_seconds", lambda *_: 4.0)  # 48 seconds for a step, by what is certain
    spent, certain = info.fields["spent_s"], 48 * (16 - info.step)
    with pytest.raises(RequestError, match=rf"{16 - info.step} steps after the last checkpoint take at least"):
        train_local(RunSpec.resolve({**written, "budget": {"seconds": spent + certain - 20}}))
    outcome = train_local(RunSpec.resolve({**written, "budget": {"seconds": spent + certain + 20}}))
    assert outcome.run == info.name and certain + 20 < 48 * 16


def test_a_run_whose_last_step_is_stored_is_registered_whatever_is_left(tmp_path: Path) -> None:
    written = document(tmp_path, epochs=1)

    def fail(prepared: Any) -> Any:
        raise RuntimeError("the command ends here")

    with pytest.raises(RuntimeError):
        train_local(RunSpec.resolve(written), finish=fail)
    assert train_local(RunSpec.resolve({**written, "budget": {"seconds": 1e-3, "store_gb": 1e-6}})).version == "v1"


class LosingHarness(LocalHarness):
    """A machine that is lost in the fifth step."""

    def consumed(self, step: int, rows: np.ndarray) -> None:
        if step == 4:
            raise RuntimeError("lost")


def test_seconds_of_a_command_that_was_killed_count_by_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = document(tmp_path, epochs=1, checkpoint_steps=2)
    monkeypatch.setattr(session, "LocalHarness", lambda progress=None: LosingHarness())
    with pytest.raises(RuntimeError):
        train_local(RunSpec.resolve(written))
    Runs(open_store(written["store"])).update(RunSpec.resolve(written).run, spent_s=0)
    with pytest.raises(RequestError, match=r"budget.seconds: 0.001 are spent"):
        train_local(RunSpec.resolve({**written, "budget": {"seconds": 1e-3}}))


def test_seconds_of_a_lost_attempt_of_the_same_command_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec.resolve({**document(tmp_path, epochs=1, checkpoint_steps=2), "budget": {"seconds": 1000}})
    read = RunState.read
    with session.run_session(spec) as prepared:
        assert isinstance(prepared, PreparedRun)
        job = replace(prepared.job, began=time.time() - 900)
        with pytest.raises(RuntimeError, match="lost"):
            fit(job, LosingHarness())
        monkeypatch.setattr(RunState, "read", lambda text: replace(read(text), seconds=850.0))
        assert fit(job, LocalHarness()).finished


class SleepingHarness(LocalHarness):
    """A machine on which a step takes a while."""

    def consumed(self, step: int, rows: np.ndarray) -> None:
        time.sleep(0.25)


@pytest.mark.slow
def test_a_run_that_sleeps_ends_before_its_seconds_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {**document(tmp_path, epochs=5), "budget": {"seconds": 8}}
    monkeypatch.setattr(session, "LocalHarness", SleepingHarness)
    with pytest.raises(Stopped, match=r"budget.seconds: 8 are about to be spent"):
        train_local(RunSpec.resolve(written))
    (info,) = Runs(open_store(written["store"])).list()
    assert info.step > 0 and info.fields["spent_s"] <= 8 + 0.5


def test_less_than_an_epoch_of_the_cheapest_method_is_refused_before_a_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {**document(tmp_path), "budget": {"seconds": 1e-3}}
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(written))
    assert main(["train", str(path)]) == 2
    assert "do not hold one epoch of the cheapest method" in capsys.readouterr().err
    assert [info.step for info in Runs(open_store(written["store"])).list()] == [0]
    search = {"space": {"training.lr": {"grid": [1e-3, 1e-2]}}, "scheduler": "none"}
    with pytest.raises(RequestError, match="do not hold one epoch of the cheapest method"):
        search_here(RunSpec.resolve({**written, "search": search}))


@pytest.mark.parametrize("limit", [{"memory_gb": 1e-3}, {"store_gb": 1e-6}])
def test_what_memory_or_store_cannot_hold_is_refused(limit: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"budget.{next(iter(limit))}: .* do not hold"):
        train_local(RunSpec.resolve({**document(tmp_path), "budget": limit}))


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": "long"}, {"hours": 1}, {"memory_gb": -1}])
def test_a_wrong_budget_is_a_problem_of_the_spec(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"budget.{next(iter(wrong))}"):
        RunSpec.resolve({**document(tmp_path), "budget": wrong})


@pytest.mark.slow
def test_a_search_ends_within_a_trial_of_its_budget_and_goes_on_with_more(tmp_path: Path) -> None:
    written = document(tmp_path, epochs=1)
    search = {"space": {"training.lr": {"grid": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3]}}, "scheduler": "none"}
    one = search_here(RunSpec.resolve({**written, "search": search, "budget": {"seconds": 0.3}}))
    assert len(one.trials) < 6
    more = search_here(RunSpec.resolve({**written, "search": search, "budget": {"seconds": 600}}))
    assert more.run == one.run and len(more.trials) == 6


def test_a_prediction_ends_within_a_block_of_its_budget_and_goes_on(tmp_path: Path) -> None:
    written = document(tmp_path, method="feature-extraction", epochs=1)
    train_local(RunSpec.resolve(written))
    rows = tickets(tmp_path / "new.csv", 20)
    output = tmp_path / "out.jsonl"
    request = BatchRequest("tiny", str(rows), str(output), written["store"], block_rows=4)
    short = BatchRequest(**{**vars(request), "budget": {"seconds": 1e-3}})
    with pytest.raises(Stopped, match=r"budget.seconds: 0.001 are about to be spent: what was answered is kept"):
        predict_here(short)
    assert len(list((tmp_path / ".out.jsonl.unfinished").glob("parts/*"))) == 1
    assert predict_here(request).rows == 20 and len(output.read_text().splitlines()) == 20
    with pytest.raises(RequestError, match="budget"):
        predict_here(BatchRequest(**{**vars(request), "budget": {"seconds": -1}}), fresh=True)
    with pytest.raises(RequestError, match=r"budget.memory_gb: .* do not hold the weights"):
        predict_here(BatchRequest(**{**vars(request), "budget": {"memory_gb": 1e-6}}), fresh=True)


def test_stages_spend_the_budget_of_the_run_that_they_make_a_base_for(tmp_path: Path) -> None:
    stage = {"task": "masked-lm", "data": {"train": str(tmp_path / "train.csv"), "eval": str(tmp_path / "eval.csv")}}
    stage |= {"training": {"epochs": 1, "lr": 1e-3}}
    written = {**document(tmp_path, epochs=1), "stages": [stage], "budget": {"seconds": 600}}
    spec = RunSpec.resolve(written)
    seen: list[float] = []

    def train(one: RunSpec) -> Any:
        seen.append(one.budget.seconds or 0.0)
        Runs(open_store(one.store)).update(one.run, spent_s=250.0)  # two attempts, the last of 200
        return SimpleNamespace(model=one.name, version="v1", run=one.run, seconds=200.0)

    left = after_stages(spec, train, None)
    assert seen == [600.0] and left.budget.seconds == 350.0 and left.run == spec.run
