"""A stored document that is too large is damage, known by its size before it is read: leases and run records too."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from regraft.errors import Damaged
from regraft.store import bounded_json, documents
from regraft.store.lease import Lease, holder
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from unit.store.conftest import small_server as small_server
from unit.store.conftest import small_url as small_url
from unit.store.conftest import store as store
from unit.store.conftest import url as url

MOST = 1 << 20
LARGE = 64 << 20


@pytest.fixture(autouse=True)
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_BYTES", MOST)
    monkeypatch.setattr(bounded_json, "MOST_BYTES", MOST)


def planted(store: ObjectStore, key: str) -> None:
    """Put a document of zeros there, without holding it in memory where the store is a folder."""
    store.put(key, b"{}")
    if (file := store.local(key)) is None:
        store.put(key, b"\0" * (4 * MOST))
        return
    with file.open("r+b") as opened:
        opened.truncate(LARGE)


def peak(call: Callable[[], object]) -> int:
    """Return the most bytes that a call held."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(Damaged, match="a document has at most"):
        call()


def test_a_lease_is_replaced(store: ObjectStore) -> None:
    planted(store, "runs/r/lease.json")

    def take() -> None:
        with Lease(store, "r"):
            assert holder(store, "r") is not None

    assert peak(take) < 3 * MOST


def test_a_lease_that_becomes_large_is_lost(store: ObjectStore) -> None:
    with Lease(store, "r", heartbeat_s=0.05) as lease:
        planted(store, "runs/r/lease.json")
        assert lease.lost.wait(10)
        store.delete(["runs/r/lease.json"])


def test_the_record_of_a_run_is_named_and_replaced(store: ObjectStore) -> None:
    runs = Runs(store)
    planted(store, "runs/r/run.json")
    assert peak(lambda: refused(lambda: runs.info("r"))) < 3 * MOST
    assert [info.state for info in runs.list()] == ["damaged"]
    assert peak(lambda: runs.update("r", state="running")) < 3 * MOST
    assert runs.info("r").state == "running"


def test_an_alias_is_replaced(store: ObjectStore) -> None:
    registry = Registry(store)
    registry.publish("m", {"a": b"1"}, {"delta_sha256": "1"})
    registry.promote("m", "v1", "production")
    (key,) = [stat.key for stat in store.list("models/m/") if "production" in stat.key]
    planted(store, key)
    assert peak(lambda: registry.promote("m", "v1", "production")) < 3 * MOST
    assert registry.aliases("m") == {"production": "v1"}
    assert [version.number for version in registry.versions("m")] == [1]
