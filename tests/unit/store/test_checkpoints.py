"""The newest valid checkpoint is found, whatever the damage to the others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.errors import Damaged, StoreError
from regraft.store.checkpoints import Checkpoints, Retention, SavedCheckpoint
from regraft.store.objects import ObjectStore

Hurt = Callable[[ObjectStore, SavedCheckpoint, SavedCheckpoint], None]


def body(step: int) -> bytes:
    return f"step {step:03d} ".encode() * 50


def fail(error: Damaged) -> None:
    raise AssertionError(error)


def save(runs: Checkpoints, step: int, **metrics: float) -> SavedCheckpoint:
    return runs.save(step, {"delta": body(step), "state.json": b"{%d}" % step}, {"metrics": metrics})


@pytest.fixture
def runs(store: ObjectStore) -> Checkpoints:
    return Checkpoints(store, "run")


@pytest.fixture
def local(folder: ObjectStore) -> Checkpoints:
    return Checkpoints(folder, "run")


def test_what_was_saved_is_listed_and_opened(runs: Checkpoints, tmp_path: Path) -> None:
    assert runs.listed() == [] and runs.latest(tmp_path, fail) is None
    made = [save(runs, step) for step in (1, 100, 20)]
    assert [one.step for one in runs.listed()] == [1, 20, 100]
    assert set(runs.listed()) == set(made)
    found = runs.latest(tmp_path, fail)
    assert found is not None and found[0] == made[1]
    assert (found[1] / "delta").read_bytes() == body(100)
    assert found[0].meta["step"] == 100 and found[0].meta["run"] == "run"
    assert (runs.open(made[0], tmp_path) / "delta").read_bytes() == body(1)


def test_of_one_step_saved_twice_the_later_counts(local: Checkpoints, tmp_path: Path) -> None:
    for number in range(4):
        last = local.save(7, {"delta": bytes([number])}, {})
        time.sleep(0.01)
    found = local.latest(tmp_path, fail)
    assert found is not None and found[0] == last


def cut(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    store.put(new.prefix + "delta", store.get(new.prefix + "delta")[:-7])


def emptied(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    store.put(new.prefix + "delta", b"")


def flipped(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    data = bytearray(store.get(new.prefix + "delta"))
    data[len(data) // 2] ^= 4
    store.put(new.prefix + "delta", data)


def deleted(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    store.delete([new.prefix + "state.json"])


def swapped(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    store.put(new.prefix + "delta", store.get(old.prefix + "delta"))


def whole_swapped(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    for name in ("delta", "state.json", "manifest.json"):
        store.put(new.prefix + name, store.get(old.prefix + name))


def manifest_swapped(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    store.put(new.prefix + "manifest.json", store.get(old.prefix + "manifest.json"))


def manifest_cut(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    store.put(new.prefix + "manifest.json", store.get(new.prefix + "manifest.json")[:100])


def manifest_emptied(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    store.put(new.prefix + "manifest.json", b"")


def manifest_edited(store: ObjectStore, new: SavedCheckpoint, old: SavedCheckpoint) -> None:
    data = store.get(new.prefix + "manifest.json").replace(b'"size": ', b'"size": 1')
    store.put(new.prefix + "manifest.json", data)


HURTS = [cut, emptied, flipped, deleted, swapped, whole_swapped, manifest_swapped, manifest_cut, manifest_emptied,
         manifest_edited]  # fmt: skip


@pytest.mark.parametrize("hurt", HURTS)
def test_a_damaged_one_is_named_and_the_one_before_it_taken(runs: Checkpoints, tmp_path: Path, hurt: Hurt) -> None:
    old, new = save(runs, 10), save(runs, 20)
    hurt(runs.store, new, old)
    damaged: list[Damaged] = []
    found = runs.latest(tmp_path, damaged.append)
    assert found is not None and found[0] == old
    assert (found[1] / "delta").read_bytes() == body(10)
    assert len(damaged) == 1 and new.prefix in str(damaged[0])
    again = next(one for one in runs.listed() if one.step == 20)
    with pytest.raises(Damaged):
        runs.open(again, tmp_path)


@pytest.mark.parametrize("hurt", HURTS)
def test_when_all_are_damaged_all_are_named_and_none_is_taken(local: Checkpoints, tmp_path: Path, hurt: Hurt) -> None:
    first, second, third = save(local, 1), save(local, 2), save(local, 3)
    for new, old in ((third, second), (second, first)):
        hurt(local.store, new, old)
    local.store.delete([first.prefix + "delta"])
    damaged: list[Damaged] = []
    assert local.latest(tmp_path, damaged.append) is None
    assert [one.prefix for one in (third, second, first)] == [
        next(one.prefix for one in (first, second, third) if one.prefix in str(error)) for error in damaged
    ]


def test_anothers_run_is_refused(local: Checkpoints, tmp_path: Path) -> None:
    made = save(Checkpoints(local.store, "other"), 5)
    for stat in list(local.store.list(made.prefix)):
        local.store.put(stat.key.replace("/other/", "/run/"), local.store.get(stat.key))
    damaged: list[Damaged] = []
    assert local.latest(tmp_path, damaged.append) is None
    assert "'other'" in str(damaged[0])


def test_a_store_that_fails_is_no_reason_to_fall_back(
    local: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(local, 1)
    save(local, 2)

    def broken(key: str, path: Path) -> None:
        raise StoreError("the network is down")

    monkeypatch.setattr(local.store, "fetch", broken)
    with pytest.raises(StoreError, match="network"):
        local.latest(tmp_path, fail)


def test_an_uncommitted_one_is_not_listed(runs: Checkpoints, tmp_path: Path) -> None:
    save(runs, 1)
    runs.store.put("runs/run/checkpoints/00000002-aaaaaaaa/delta", b"half")
    runs.store.put("runs/run/checkpoints/stray", b"?")
    runs.store.put("runs/run/checkpoints/odd/manifest.json", b"?")
    assert [one.step for one in runs.listed()] == [1]
    assert runs.collect(3600.0) == []
    assert runs.collect(-3600.0) == ["runs/run/checkpoints/00000002-aaaaaaaa/"]
    assert [one.step for one in runs.listed()] == [1]
    assert runs.store.exists("runs/run/checkpoints/stray")


def test_an_upload_under_way_is_not_garbage(local: Checkpoints) -> None:
    prefix = "runs/run/checkpoints/00000002-aaaaaaaa"
    local.store.put(f"{prefix}/old", b"")
    path = local.store.local(f"{prefix}/old")
    assert path is not None
    os.utime(path, (1.0, 1.0))
    local.store.put(f"{prefix}/new", b"")
    assert local.collect(3600.0) == []


SCORES = {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.9, 5: 0.3}


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (Retention(), [5]),
        (Retention(last=3), [3, 4, 5]),
        (Retention(last=9), [1, 2, 3, 4, 5]),
        (Retention(metric="f1"), [2, 5]),
        (Retention(metric="f1", best=2), [2, 4, 5]),
        (Retention(metric="f1", mode="min"), [3, 5]),
        (Retention(metric="unknown"), [5]),
        (Retention(last=0), []),
        (Retention(last=0, metric="f1"), [2]),
    ],
)
def test_retention_keeps_what_it_says(local: Checkpoints, policy: Retention, left: list[int]) -> None:
    made = {step: save(local, step, f1=score) for step, score in SCORES.items()}
    gone = local.retain(policy)
    assert [one.step for one in local.listed()] == left
    assert gone == [made[step].prefix for step in made if step not in left]
    assert {stat.key.split("/")[3] for stat in local.store.list()} == {made[step].prefix.split("/")[3] for step in left}
    assert local.retain(policy) == []


def test_protected_ones_stay(runs: Checkpoints) -> None:
    made = [save(runs, step, f1=0.0) for step in range(5)]
    runs.retain(Retention(protect=frozenset({made[0].id, made[2].manifest.id})))
    assert [one.step for one in runs.listed()] == [0, 2, 4]


def test_scores_that_are_no_numbers_do_not_count(local: Checkpoints) -> None:
    for step, score in enumerate([0.5, float("nan"), "high", None, True]):
        local.save(step, {}, {"metrics": {"f1": score}})
    local.save(9, {}, {"metrics": {}})
    local.retain(Retention(metric="f1"))
    assert [one.step for one in local.listed()] == [0, 9]


def test_a_damaged_one_neither_counts_nor_goes(local: Checkpoints, tmp_path: Path) -> None:
    good, bad = save(local, 1), save(local, 2)
    manifest_cut(local.store, bad, good)
    assert local.retain(Retention(last=1)) == []
    found = local.latest(tmp_path, lambda error: None)
    assert found is not None and found[0] == good


def test_a_reader_never_meets_half_a_checkpoint(local: Checkpoints, tmp_path: Path) -> None:
    """While one process saves and deletes checkpoints, another finds only complete ones."""
    save(local, 0)
    stop = threading.Event()

    def writing() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            save(local, step)
            local.retain(Retention(last=2))

    thread = threading.Thread(target=writing)
    thread.start()
    seen: set[int] = set()
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            found = local.latest(tmp_path / str(len(seen)), fail)
            if found is not None:
                assert (found[1] / "delta").read_bytes() == body(found[0].step)
                seen.add(found[0].step)
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 5
