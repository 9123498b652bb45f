"""Times are compared by the store's own clock: hosts whose clocks differ by hours, or jump, delete and take nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.errors import LeaseHeld
from regraft.store import documents
from regraft.store.checkpoints import Checkpoints
from regraft.store.folder import FolderStore
from regraft.store.lease import Lease, holder
from regraft.store.objects import ObjectStore
from regraft.store.registry import CLAIM, Registry
from regraft.trunk import feature_store

HOUR = 3600.0
Skew = Callable[[float], None]
Take = Callable[[Lease], Lease]


@pytest.fixture
def skew(monkeypatch: pytest.MonkeyPatch) -> Skew:
    """Set this host's clock ahead by some seconds."""
    true = time.time
    return lambda ahead: monkeypatch.setattr(time, "time", lambda: true() + ahead)


def test_the_stores_time_does_not_depend_on_the_hosts_clock(store: ObjectStore, skew: Skew) -> None:
    true = time.time()
    for ahead in (0.0, 6 * HOUR, -6 * HOUR):
        skew(ahead)
        assert store.now() == pytest.approx(true, abs=60)
    assert not list(store.list()), "asking leaves nothing behind"


def test_a_clock_that_jumps_while_the_store_is_asked_changes_nothing(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = time.time
    jumps = itertools.cycle((-6 * HOUR, 100 * HOUR))
    monkeypatch.setattr(time, "time", lambda: true() + next(jumps))
    for _ in range(2):
        assert store.now() == pytest.approx(true(), abs=60)


def test_a_store_without_a_clock_of_its_own_reads_it_from_an_object(tmp_path: Path, skew: Skew) -> None:
    true, store = time.time(), FolderStore(str(tmp_path))
    skew(6 * HOUR)
    assert ObjectStore.now(store) == pytest.approx(true, abs=60)
    assert not list(store.list())


@pytest.mark.parametrize("ahead", [48 * HOUR, -48 * HOUR])
def test_what_is_under_way_is_collected_by_no_clock(store: ObjectStore, skew: Skew, ahead: float) -> None:
    under_way = ["models/m/v1/card.md", "runs/r/checkpoints/a/delta.safetensors", "features/t/s/features.arrow"]
    store.put_if_absent(f"models/m/v1/{CLAIM}", documents.encode({"at": time.time(), "id": "x"}))
    for key in under_way:
        store.put(key, b"half")
    skew(ahead)
    assert Registry(store).collect(24 * HOUR) == []
    assert Checkpoints(store, "r").collect(24 * HOUR) == []
    assert feature_store.collect(store, 24 * HOUR)[0] == []
    assert store.sweep(24 * HOUR) == ()
    assert all(store.exists(key) for key in under_way)


def elsewhere(store: ObjectStore) -> None:
    """Make the lease one of a process on another machine."""
    key = "runs/r/lease.json"
    documents.change(store, key, lambda old: {**(old or {}), "host": "elsewhere", "machine": "another"})


@pytest.mark.parametrize("ahead", [6 * HOUR, -6 * HOUR])
def test_a_held_lease_is_not_taken_by_a_host_whose_clock_is_off(
    store: ObjectStore, take: Take, skew: Skew, ahead: float
) -> None:
    take(Lease(store, "r", heartbeat_s=60))
    elsewhere(store)
    skew(ahead)
    with pytest.raises(LeaseHeld, match=r"try again in \d{1,2} s"):
        Lease(store, "r").acquire()
    assert holder(store, "r") is not None


@pytest.mark.parametrize("ahead", [6 * HOUR, -6 * HOUR])
def test_a_lease_of_a_host_whose_clock_is_off_expires_in_time(
    store: ObjectStore, take: Take, skew: Skew, ahead: float
) -> None:
    skew(ahead)
    take(Lease(store, "r", ttl_s=0.2, heartbeat_s=60))
    elsewhere(store)
    skew(0.0)
    time.sleep(1.3)  # S3 tells whole seconds
    with Lease(store, "r"):
        pass


def test_asking_a_store_that_is_not_there_creates_nothing(tmp_path: Path) -> None:
    assert FolderStore(str(tmp_path / "missing" / "deep")).now() == pytest.approx(time.time(), abs=60)
    assert not (tmp_path / "missing").exists()
