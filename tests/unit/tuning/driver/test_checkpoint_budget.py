"""The checkpoints of a search stay within its quota, and the best one is never deleted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from regraft.contracts import Score
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import ObjectStore, open_store
from regraft.tuning.driver.checkpoint_budget import CheckpointBudget
from regraft.tuning.records import TrialRecord

SCORE = Score("accuracy", "max")
MB = 1_000_000
QUOTA = 64 * MB


def stored(folder: Path) -> int:
    """Return the bytes of all files of the search's trials."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def save(store: ObjectStore, trial: str, step: int, size: int, score: float) -> str:
    """Commit a checkpoint of `size` bytes and return its prefix."""
    meta = {"metrics": {"accuracy": score}}
    return (
        Checkpoints.of_trial(store, "s", trial)
        .save(step, {"delta.safetensors": bytes(size), "state.json": b"{}"}, meta)
        .prefix
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_200_trials_never_take_more_than_the_quota_and_the_best_stays(tmp_path: Path, seed: int) -> None:
    store = open_store(str(tmp_path))
    trials = tmp_path / "searches" / "s" / "trials"
    budget = CheckpointBudget(store, "searches/s", SCORE, keep=3, quota=QUOTA)
    draw = random.Random(seed)
    live: dict[str, int] = {}
    best, registered, waiting, written, most = (-1.0, ""), [], list(range(200)), 0, 0
    while waiting or live:
        while waiting and len(live) < 40:
            trial = f"t{waiting.pop(0):04d}"
            live[trial] = 0
            budget.began(trial)
        trial = draw.choice(sorted(live))
        live[trial] += 1
        size, score = draw.randint(MB, 4 * MB), draw.random()
        if budget.reserve(trial, size):
            prefix = save(store, trial, live[trial], size, score)
            assert stored(trials) <= QUOTA
            budget.saved(trial, prefix, size, score)
            written += 1
            most = max(most, budget.used)
            best = max(best, (score, prefix))
        if live[trial] == 2:
            budget.ended(trial)
            del live[trial]
            if len(registered) < 4 and (prefix := budget.best_of(trial)):
                budget.registered(trial)
                registered.append(prefix)
        assert store.exists(f"{best[1]}manifest.json"), "the best one is there"
        assert all(store.exists(f"{prefix}manifest.json") for prefix in registered)
    assert written >= 200
    assert QUOTA - 4 * MB < most <= QUOTA, "the quota was met, and kept"


def test_the_best_k_and_nothing_else_stays_without_a_quota(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    budget = CheckpointBudget(store, "searches/s", SCORE, keep=2, quota=None)
    prefixes = {}
    for number, score in enumerate((0.5, 0.9, 0.1, 0.7)):
        trial = f"t{number:04d}"
        budget.began(trial)
        for step in (1, 2):
            prefixes[trial] = save(store, trial, step, 1000, score + step / 100)
            budget.saved(trial, prefixes[trial], 1000, score + step / 100)
        budget.ended(trial)
    assert [trial for trial in prefixes if budget.best_of(trial)] == ["t0001", "t0003"]
    assert {stat.key.rpartition("/")[0] + "/" for stat in store.list("searches/")} == {
        prefixes["t0001"],
        prefixes["t0003"],
    }


def test_no_room_is_made_by_what_would_not_suffice(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    budget = CheckpointBudget(store, "searches/s", SCORE, keep=3, quota=10_000)
    budget.began("t0000")
    assert budget.reserve("t0000", 3000)
    prefix = save(store, "t0000", 1, 3000, 0.5)
    budget.saved("t0000", prefix, 3000, 0.5)
    assert not budget.reserve("t0000", 20_000)
    assert store.exists(f"{prefix}manifest.json")


def test_what_a_crash_left_is_collected_and_what_goes_on_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    kept = save(store, "t0000", 4, 1000, 0.9)
    lost = save(store, "t0000", 2, 1000, 0.8)
    live = save(store, "t0001", 3, 1000, 0.4)
    nobody = save(store, "t0007", 1, 1000, 0.4)
    failed = save(store, "t0002", 1, 1000, 0.4)
    store.put("searches/s/trials/t0001/checkpoints/00000004-0123abcd/delta.safetensors", b"half")
    records = [
        TrialRecord("t0000", 0, {}, status="finished", best={"accuracy": 0.9}, checkpoint=kept),
        TrialRecord("t0001", 1, {}, status="running"),
        TrialRecord("t0002", 2, {}, status="failed"),
        TrialRecord("t0003", 3, {}, status="finished", best={"accuracy": 0.95}, checkpoint="searches/s/trials/gone/"),
    ]
    budget = CheckpointBudget(store, "searches/s", SCORE, keep=3, quota=None)
    assert budget.collect(records) == 4
    assert {stat.key.rpartition("/")[0] + "/" for stat in store.list("searches/")} == {kept, live}
    assert {lost, nobody, failed}.isdisjoint({kept, live})
    assert records[3].checkpoint is None
    assert budget.best_of("t0001") == live
