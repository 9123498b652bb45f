"""Clocks of three hosts that differ by hours, or jump: nothing that is under way is deleted or taken over."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.cli.gc import _DAY_S, _unfinished
from regraft.errors import LeaseHeld
from regraft.store import manifest as manifests
from regraft.store.atomic_files import temporary_file
from regraft.store.checkpoints import Checkpoints, Retention
from regraft.store.folder import FolderStore
from regraft.store.lease import Lease, at_work, holder
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.store.s3 import S3Store
from support.paths import PLATFORM, ROOT
from support.skewed_hosts import run_of
from unit.store.conftest import REAL
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url
from unit.store.conftest import real_url as real_url

HOUR = 3600.0
HOSTS = (-6 * HOUR, 0.0, 6 * HOUR)
"""How far the clocks of three hosts are ahead."""
JUMP = 100 * HOUR


class FakeClock:
    """The clock of the host that is acting; where the store is on its disk, the store's clock too."""

    def __init__(self, patch: pytest.MonkeyPatch, store: ObjectStore, rng: random.Random) -> None:
        self._true, self._store_now, self.ahead, self._rng = time.time, store.now, 0.0, rng
        self._jumps = isinstance(store, FolderStore)
        patch.setattr(time, "time", lambda: self._true() + self.ahead)
        patch.setattr(store, "now", self._now)

    def act(self) -> None:
        """Let another host act; now and then its clock jumps."""
        self.ahead = self._rng.choice(HOSTS) + self._rng.choice((0.0, 0.0, JUMP, -JUMP))

    def _now(self) -> float:
        # A folder has the clock of the kernel that serves it, which may be the one that jumps.
        return self._store_now() + (self.ahead if self._jumps else 0.0)


@pytest.fixture(params=["folder", "moto", *(["real"] if REAL else [])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    return open_store(request.getfixturevalue(f"{request.param}_url"))


def collect(store: ObjectStore) -> None:
    """Do what `regraft gc` does."""
    _unfinished(store, [stat.key for stat in store.list()])
    store.sweep(_DAY_S)


def interfered(store: ObjectStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another host collect between any two files of a commit."""
    put: Callable[..., None] = store.put

    def put_then_collect(key: str, body: bytes) -> None:
        put(key, body)
        clock.act()
        collect(store)

    monkeypatch.setattr(store, "put", put_then_collect)


def check(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, seed: int, count: int) -> None:
    """Publish and save a number of times under clocks of this seed; check that nothing is lost or taken over."""
    rng = random.Random(seed)
    clock = FakeClock(monkeypatch, store, rng)
    interfered(store, clock, monkeypatch)
    registry, checkpoints = Registry(store), Checkpoints(store, "r")
    with Lease(store, "r", heartbeat_s=0.2) as lease:
        for number in range(count):
            clock.act()
            version = registry.publish("m", {"a": b"1", "b": str(number).encode()}, {"delta_sha256": str(number)})
            assert manifests.read_verified(store, version.prefix, "b", version.manifest) == str(number).encode()
            saved = checkpoints.save(number, {"delta": str(number).encode()}, {"metrics": {"x": rng.random()}})
            checkpoints.retain(Retention(last=2))
            assert saved.id in {one.id for one in checkpoints.listed()}
            clock.act()
            assert holder(store, "r") is not None and not lease.lost.is_set()
            with pytest.raises(LeaseHeld):
                Lease(store, "r").acquire()
    assert [version.number for version in registry.versions("m")] == list(range(1, count + 1))
    assert [one.step for one in checkpoints.listed()] == [count - 2, count - 1]


def test_nothing_is_lost_or_taken_over(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    check(store, monkeypatch, seed=14, count=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_nothing_of_a_hundred_publications_is_lost(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    check(store, monkeypatch, seed=seed, count=34)


def begun(url: str, seed: int, count: int) -> dict[str, subprocess.Popen[str]]:
    """Start a process for each host; each holds the lease of its run."""
    hosts = {f"host{number}": str(ahead) for number, ahead in enumerate(HOSTS)}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PLATFORM), str(ROOT / "tests")])}
    running = {}
    for host, ahead in hosts.items():
        others = ",".join(other for other in hosts if other != host)
        command = [sys.executable, "-m", "support.skewed_hosts", url, host, ahead, str(seed), str(count), others]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        running[host] = subprocess.Popen(command, env=environment, text=True, **pipes)
    for one in running.values():
        assert one.stdout is not None and one.stdout.readline() == "holding\n"
    return running


def go_on(one: subprocess.Popen[str]) -> None:
    """Let a host go on."""
    assert one.stdin is not None
    one.stdin.write("\n")
    one.stdin.flush()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [14])
def test_hosts_that_are_processes_lose_nothing_of_a_hundred_publications(store: ObjectStore, seed: int) -> None:
    slow_server = bool(os.environ.get("AWS_ENDPOINT_URL")) and not REAL  # moto's takes a tenth of a real one's requests
    began, count = time.monotonic(), 10 if slow_server and isinstance(store, S3Store) else 34
    store.begin()
    running = begun(store.url, seed, count)
    try:
        for one in running.values():
            go_on(one)
        published: dict[str, bytes] = {}
        for one in running.values():
            assert one.stdout is not None
            found = json.loads(one.stdout.readline() or "{}")
            published |= {version: content.encode() for version, content in found.items()}
        for one in running.values():
            go_on(one)
        assert [one.wait(60) for one in running.values()] == [0, 0, 0]
    finally:
        for one in running.values():
            one.kill()
    versions = {version.version: version for version in Registry(store).versions("m")}
    assert versions.keys() == published.keys() and len(published) == 3 * count
    for name, version in versions.items():
        assert manifests.read_verified(store, version.prefix, "b", version.manifest) == published[name]
    for host in running:
        kept = Checkpoints(store, run_of(host)).listed()
        assert [one.step for one in kept] == [count - 2, count - 1]
    print(f"{len(published)} publications of three processes in {time.monotonic() - began:.1f} s on {store.url}")


def test_a_file_that_is_being_written_is_not_swept(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path / "store"))
    store.put("a", b"1")
    left = tmp_path / "store" / f".regraft-tmp-{os.getpid()}-x"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    with temporary_file(tmp_path / "store" / "b") as (_, written):
        os.utime(written, (1, 1))
        assert store.sweep(_DAY_S) == (left.name,)
        assert written.exists()


def test_a_claim_protects_only_while_its_process_publishes(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(store)
    with at_work() as publisher:
        claimed = registry._claim("m", publisher)
        store.put(f"{claimed.prefix}half", b"1")
        monkeypatch.setattr(store, "now", lambda: time.time() + 2 * _DAY_S)
        assert registry.collect(_DAY_S) == []
    assert registry.collect(_DAY_S) == [claimed.prefix]
