"""Ctrl-C and SIGTERM end a search with a checkpoint of each trial under way; a trial that hangs ends by `seconds`."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from doubles.fake_pool import FakePool, a_spec, searched
from regraft.errors import Interrupted
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.tuning.driver import workers
from regraft.tuning.driver.local_worker import LocalPool
from regraft.tuning.driver.prepare import search_name
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.driver.work_thread import WorkAbandoned, WorkThread, left_behind
from regraft.tuning.protocol import Trial
from regraft.tuning.worker.context import TrialHarness
from regraft.tuning.worker.stacked_heads import Stack
from support.processes import in_child, interrupted_child, search_counted
from support.tiny import document, tiny_bert

STEPS, TRIALS = 16, 2
FAST = (11,)
RATES = {"training.lr": {"grid": [1e-3, 1e-4]}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    written = document(tmp_path_factory.mktemp("interrupts"))
    return written | {"search": {"space": RATES, "sampler": "grid", "scheduler": "none", "register": "none"}}


def logged(row_log: Path) -> list[int]:
    """Return the numbers of the steps that were taken, over all attempts."""
    return [int(line.split()[1]) for line in row_log.read_text().splitlines()] if row_log.exists() else []


def store_of(written: dict[str, Any]) -> SearchStore:
    return SearchStore(open_store(written["store"]), search_name(RunSpec.resolve(written)))


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed in FAST else pytest.mark.slow) for seed in range(20)]
)
def test_an_interrupt_loses_at_most_the_step_under_way(base: dict[str, Any], tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    written = {**base, "store": str(tmp_path / "store")}
    row_log = tmp_path / "steps"
    asked = draw.randrange(0, STEPS * TRIALS - 2)
    then = draw.random() * (0.5 if asked == 0 else 0.02)
    number = signal.SIGTERM if seed % 4 == 3 else signal.SIGINT
    if number == signal.SIGTERM:
        asked = max(asked, 1)  # before the first step it is the process's own matter
    code = interrupted_child(written, row_log, steps=asked, then=then, number=number, function=search_counted)
    taken = logged(row_log)
    if code == 0:  # it ended before the signal came
        assert len(taken) == STEPS * TRIALS
        return
    assert code == (1 if number == signal.SIGTERM else 130)
    found = store_of(written)
    if taken:
        record = found.record()
        assert record is not None and record.state == "stopped"
        over = [one for one in found.trials() if one.status == "finished"]
        step = sum(one.step for one in found.trials() if one.status == "waiting")
        assert STEPS * len(over) + step == len(taken), "the step under way is in a checkpoint"
    assert in_child(search_counted, written, str(row_log)) == 0
    assert logged(row_log) == list(range(STEPS)) * TRIALS, "no step is taken twice, and none is left out"


@pytest.mark.slow
def test_a_killed_search_of_two_bases_ends_with_the_same_bits(tmp_path: Path) -> None:
    written = document(tmp_path, epochs=1, dropout=0.1)
    bases = [str(tiny_bert(tmp_path / "small")), str(tiny_bert(tmp_path / "large", layers=3, width=48, seed=3))]
    space = {"base": {"grid": bases}}
    written |= {"search": {"space": space, "sampler": "grid", "scheduler": "none"}}
    ends = []
    for name, steps in (("straight", None), ("killed", 11)):  # in the trial of the second base
        one, row_log = {**written, "store": str(tmp_path / name)}, tmp_path / f"{name}.steps"
        if steps is not None:
            code = interrupted_child(
                one, row_log, steps=steps, then=0.0, number=signal.SIGKILL, function=search_counted
            )
            assert code == -signal.SIGKILL
        assert in_child(search_counted, one, str(row_log)) == 0
        found = store_of(one)
        reports = [(trial.id, [report["metrics"] for report in trial.reports]) for trial in found.trials()]
        record = found.record()
        assert record is not None
        (version,) = Registry(found.store).versions("tiny")
        pinned = {base: known["hash"] for base, known in record.bases.items()}
        ends.append((reports, record.winner, pinned, found.store.get(f"{version.prefix}delta.safetensors")))
    assert ends[0] == ends[1]
    assert len(ends[0][2]) == 2


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(base: dict[str, Any], tmp_path: Path) -> None:
    written, row_log = {**base, "store": str(tmp_path / "store")}, tmp_path / "steps"
    assert interrupted_child(written, row_log, steps=4, then=0.0, times=2, function=search_counted) == 130
    assert in_child(search_counted, written, str(row_log)) == 0
    assert set(logged(row_log)) == set(range(STEPS))


@pytest.mark.slow
def test_heads_that_train_together_all_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = {"space": {"training.lr": {"grid": [1e-3, 1e-2, 1e-1]}}, "sampler": "grid", "scheduler": "none"}
    compute = {"workers": 0, "cpus": 1, "trunk": "memory"}
    spec = a_spec(tmp_path, {**search, "register": "none"}, compute=compute)
    steps: list[int] = []
    plain = Stack.step

    def interrupting(stack: Stack) -> None:
        plain(stack)
        steps.append(len(stack.heads))
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    monkeypatch.setattr(Stack, "step", interrupting)
    with pytest.raises(Interrupted, match=r"3 trials under way \(t0000 at step"):
        searched(spec, LocalPool())
    store = SearchStore(open_store(spec.store), search_name(spec))
    reached = {one.step for one in store.trials()}
    assert len(reached) == 1 and 5 <= min(reached) <= 6
    searched(spec, LocalPool())
    assert len(steps) == STEPS, "the cohort goes on from its checkpoints"


def test_a_notice_hands_out_no_other_trial(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, {"space": {"training.lr": {"loguniform": [1e-5, 1e-1]}}, "trials": 6}, method="full")

    def interrupting(trial: Trial, epoch: int) -> None:
        if trial.number == 2 and epoch == 2:
            signal.raise_signal(signal.SIGINT)

    pool = FakePool(during=interrupting)
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        searched(spec, pool)
    assert pool.ran == ["t0000", "t0001", "t0002"]
    assert len(searched(spec, FakePool(ran=pool.ran)).trials) == 6
    assert len(pool.ran) == 6


@pytest.mark.parametrize("wait", [pytest.param(wait, marks=pytest.mark.slow) for wait in ("short", "long")])
def test_a_trial_that_hangs_is_ended_by_the_seconds(
    wait: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: dict[str, Any]
) -> None:
    monkeypatch.setattr(workers, "GRACE_S", 0.6)
    monkeypatch.setattr("regraft.tuning.driver.work_thread.END_S", 0.3)
    until = time.monotonic() + (20 if wait == "long" else 10**6)

    def consumed(harness: TrialHarness, step: int, rows: object) -> None:
        harness.pulse.beat()
        hangs.append(step)
        if len(hangs) > STEPS:  # the second trial
            if wait == "long":
                time.sleep(max(0.0, until - time.monotonic()))
            while time.monotonic() < until:
                time.sleep(0.01)

    hangs: list[int] = []
    monkeypatch.setattr(TrialHarness, "consumed", consumed)
    search = {**base["search"], "seconds": 4, "register": "best"}
    spec = RunSpec.resolve({**base, "store": str(tmp_path / "store"), "search": search})
    before = time.monotonic()
    outcome = searched(spec, LocalPool())
    assert time.monotonic() - before < 30
    assert [trial["status"] for trial in outcome.trials] == ["finished", "failed"]
    assert outcome.winner == "t0000" and outcome.version == "v1"
    failed = SearchStore(open_store(spec.store), search_name(spec)).trials()[1]
    assert "it hangs: search.seconds (4) are over" in str(failed.error)
    assert not list(Checkpoints.of_trial(open_store(spec.store), search_name(spec), "t0001").listed())
    assert left_behind() or wait == "short"


def test_only_silence_after_the_seconds_counts_as_hanging() -> None:
    limits = workers.SearchLimits(workers.StopNotice(), lambda: 100.0, 30.0)
    with pytest.raises(workers.WorkerHangs, match=r"search.seconds \(30\) are over"):
        limits.check_alive(40.0, 1.0)
    limits.check_alive(20.0, 1.0)
    limits.check_alive(40.0, 30.0)  # what takes long by nature is waited for
    workers.SearchLimits(workers.StopNotice(), lambda: 0.0, 0.0).check_alive(1e6, 0.0)


def test_a_call_that_is_abandoned_is_interrupted_where_python_allows_it() -> None:
    thread, seen = WorkThread(), []

    def endless() -> None:
        try:
            while True:
                time.sleep(0.001)
        except WorkAbandoned:
            seen.append("abandoned")
            raise

    future = thread.start(endless)
    time.sleep(0.05)
    assert thread.end()
    assert seen == ["abandoned"] and isinstance(future.exception(), WorkAbandoned)
    assert not issubclass(WorkAbandoned, Exception), "no trial is blamed for it"
