"""One driver for each run: a second is refused, a dead one is replaced, and a lost lease is detected."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from regraft.errors import LeaseHeld, StoreError
from regraft.store import documents, lease
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore

KEY = "runs/r/lease.json"
Take = Callable[[Lease], Lease]


def forked(work: Callable[[], object]) -> int:
    """Start a child process that does `work` and then waits to be killed; return once the work is done."""
    done, done_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(done_writer, b"1")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(done_writer)
    assert os.read(done, 1) == b"1"
    os.close(done)
    return pid


def rewrite(store: ObjectStore, **fields: Any) -> None:
    documents.change(store, KEY, lambda old: {**(old or {}), **fields})


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_second_driver_is_refused_with_what_to_do(store: ObjectStore) -> None:
    with Lease(store, "r"):
        with pytest.raises(LeaseHeld, match=rf"process {os.getpid()} on .* since 20.*end that process") as caught:
            Lease(store, "r").acquire()
        assert store.url in str(caught.value)
        with Lease(store, "other"):
            pass
    with Lease(store, "r"):
        pass


def test_a_released_lease_is_free_and_release_may_be_called_twice(folder: ObjectStore) -> None:
    held = Lease(folder, "r").acquire()
    held.release()
    held.release()
    Lease(folder, "r").release()
    with Lease(folder, "r") as again:
        assert not again.lost.is_set()


def test_it_is_released_when_the_work_fails(folder: ObjectStore) -> None:
    with pytest.raises(ValueError, match="work"), Lease(folder, "r"):
        raise ValueError("work")
    with Lease(folder, "r"):
        pass


@pytest.mark.parametrize("reap", ["reaped", "zombie"])
def test_the_lease_of_a_killed_process_here_is_taken_at_once(folder: ObjectStore, reap: str) -> None:
    pid = forked(Lease(folder, "r").acquire)
    with pytest.raises(LeaseHeld, match=f"process {pid} "):
        Lease(folder, "r").acquire()
    os.kill(pid, signal.SIGKILL)
    if reap == "reaped":
        os.waitpid(pid, 0)
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with Lease(folder, "r"):
        pass
    if reap == "zombie":
        os.waitpid(pid, 0)


def test_a_later_process_of_the_same_number_is_not_the_holder(folder: ObjectStore, take: Take) -> None:
    take(Lease(folder, "r"))
    rewrite(folder, started="12345")
    with Lease(folder, "r"):
        pass


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"machine": "another-boot/pid:[1]"}, {"machine": ""}])
def test_a_process_of_another_machine_is_not_judged_by_its_number(folder: ObjectStore, other: dict[str, str]) -> None:
    first = Lease(folder, "r").acquire()
    rewrite(folder, pid=2**22 - 1, started="1", **other)
    with pytest.raises(LeaseHeld):
        Lease(folder, "r").acquire()
    rewrite(folder, until=time.time() - 0.1)
    with Lease(folder, "r"):
        pass
    first.release()


def test_an_unrenewed_lease_expires(store: ObjectStore, take: Take) -> None:
    take(Lease(store, "r", ttl_s=0.3, heartbeat_s=60))
    rewrite(store, host="elsewhere")
    with pytest.raises(LeaseHeld):
        Lease(store, "r").acquire()
    time.sleep(0.35)
    with Lease(store, "r"):
        pass


def test_a_held_lease_is_kept_alive(store: ObjectStore) -> None:
    with Lease(store, "r", ttl_s=0.5, heartbeat_s=0.05) as held:
        until = documents.read(store, KEY)["until"]
        time.sleep(0.7)
        with pytest.raises(LeaseHeld):
            Lease(store, "r").acquire()
        assert documents.read(store, KEY)["until"] > until and not held.lost.is_set()


@pytest.mark.parametrize("fate", ["taken over", "deleted", "damaged"])
def test_a_lost_lease_is_noticed_and_not_released(folder: ObjectStore, take: Take, fate: str) -> None:
    held = take(Lease(folder, "r", heartbeat_s=0.02))
    if fate == "taken over":
        rewrite(folder, id="another", host="elsewhere")
    elif fate == "deleted":
        folder.delete([KEY])
    else:
        folder.put(KEY, b"{")
    wait_for(held.lost.is_set)
    before = folder.get(KEY) if folder.exists(KEY) else None
    if fate != "damaged":
        held.release()
        assert (folder.get(KEY) if folder.exists(KEY) else None) == before


def test_a_store_that_fails_for_a_moment_does_not_lose_the_lease(
    folder: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(key: str, most: int | None = None) -> tuple[bytes, str]:
        calls.append(key)
        raise StoreError("away")

    with Lease(folder, "r", ttl_s=60, heartbeat_s=0.01) as held:
        with monkeypatch.context() as patch:
            patch.setattr(folder, "read", broken)
            wait_for(lambda: len(calls) > 2)
        assert not held.lost.is_set()
    with Lease(folder, "r", ttl_s=0.1, heartbeat_s=0.01) as held, monkeypatch.context() as patch:
        patch.setattr(folder, "read", broken)
        wait_for(held.lost.is_set)


def test_a_damaged_lease_does_not_lock_the_run_for_ever(folder: ObjectStore) -> None:
    for data in (b"", b"{", documents.encode({"until": "soon"}), documents.encode({})):
        folder.put(KEY, data)
        with Lease(folder, "r"):
            pass


def test_a_forked_child_does_not_release_its_parents_lease(folder: ObjectStore) -> None:
    with Lease(folder, "r") as held:
        pid = os.fork()
        if pid == 0:
            held.release()
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(LeaseHeld):
            Lease(folder, "r").acquire()


def test_a_hidden_process_counts_as_alive(folder: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If /proc hides the processes of other users, their absence proves nothing."""
    held = Lease(folder, "r").acquire()

    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(lease, "_started", lambda pid: "")
        patch.setattr(os, "kill", forbidden)
        with pytest.raises(LeaseHeld):
            Lease(folder, "r").acquire()
    held.release()
