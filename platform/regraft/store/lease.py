"""The lease of a run in the store, which its driver keeps renewing, so that at most one process drives the run.

A lease is free if it was released, has expired, or was held by a process of this machine that has ended. Expiry goes by
the store's clock; between processes of one machine by its time since the boot, which never jumps. The lease prevents
two drivers. A driver that has lost its lease does no harm, because every checkpoint has a prefix of its own.
"""

from __future__ import annotations

import datetime
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from regraft.errors import Conflict, Damaged, LeaseHeld, NotFound, StoreError, StoreGone
from regraft.store import documents
from regraft.store.documents import Document
from regraft.store.objects import ObjectStore, checked
from regraft.store.schemas import StoredLease

_log = logging.getLogger(__name__)
_held_ids: set[str] = set()
"""Ids of the leases that this process holds; a lease that it failed to release is not among them, and so is free."""


class Lease:
    """The lease of one run: `with Lease(store, run) as lease: ...`, with a check of `lease.lost` between steps.

    `folder` is the folder of the lease for anything but a run (a search, for example).
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        ttl_s: float = 60.0,
        heartbeat_s: float = 15.0,
        folder: str | None = None,
    ) -> None:
        self.run = run
        self.lost = threading.Event()
        """Set when another process has the lease, or it could not be renewed for `ttl_s` seconds: stop driving."""
        self._store = store
        self._key = checked(f"{folder or f'runs/{run}'}/lease.json")
        self._ttl_s = ttl_s
        self._heartbeat_s = heartbeat_s
        self._gone: StoreGone | None = None
        self._holder: Document = {}
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> Self:
        """Take the lease and renew it in a thread. Raises LeaseHeld, naming the holder, if another driver has it."""
        self._holder = this_process()
        _held_ids.add(self._holder["id"])
        try:
            documents.change(self._store, self._key, self._taken, on_damaged=_replace, schema=StoredLease)
        except BaseException:
            _held_ids.discard(self._holder["id"])
            raise
        self.lost.clear()
        self._gone = None
        self._done.clear()
        self._thread = threading.Thread(target=self._beat, name=f"regraft-lease-{self.run}", daemon=True)
        self._thread.start()
        return self

    def release(self) -> None:
        """Release the lease if this object still holds it; safe to call twice, and after it was lost."""
        self._done.set()
        if self._thread is None or self._holder.get("pid") != os.getpid():
            return
        self._thread.join()
        self._thread = None
        _held_ids.discard(self._holder["id"])
        # Marked and not deleted: deletes are unconditional on some servers, and could remove the lease of a successor.
        with suppress(Conflict, StoreGone):  # with a store that is gone, or a folder that was removed, the lease is too
            documents.change(self._store, self._key, self._released)

    def raise_if_lost(self, message: str, where: str) -> None:
        """Raise StoreGone where the store is gone, and LeaseHeld with this message where another driver drives."""
        if self._gone is not None:
            raise self._gone
        if self.lost.is_set():
            raise LeaseHeld(message, where)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except StoreError as failure:
            # The user must see the error that ended the run; a full disk or a lost server often causes both.
            level = logging.WARNING if kind is None else logging.INFO
            _log.log(level, "the lease of %s stays until it expires in %.0f s: %s", self.run, self._ttl_s, failure)

    def _taken(self, old: Document | None) -> Document:
        if old is not None and not _free(old, self._store):
            raise self._held(old)
        return self._extended()

    def _renewed(self, old: Document | None) -> Document:
        if old is None:
            self._store.verify()
            raise Conflict(f"the lease of {self.run} was deleted, as by a command that deletes it", self._store.url)
        if old.get("id") != self._holder["id"]:
            raise Conflict(f"the lease of {self.run} was taken over", self._store.url)
        return self._extended()

    def _extended(self) -> Document:
        return self._holder | {"until": self._store.now() + self._ttl_s, "until_uptime": uptime() + self._ttl_s}

    def _released(self, old: Document | None) -> Document:
        return self._renewed(old) | {"until": 0.0}

    def _beat(self) -> None:
        good = time.monotonic()
        while not self._done.wait(self._heartbeat_s):
            try:
                documents.change(self._store, self._key, self._renewed)
                good = time.monotonic()
            except (Conflict, Damaged, StoreGone) as error:
                self._gone = error if isinstance(error, StoreGone) else None
                _log.warning("%s", error)
                self.lost.set()
                return
            except StoreError as error:
                _log.warning("the lease of %s could not be renewed: %s", self.run, error)
                if time.monotonic() - good > self._ttl_s:
                    self.lost.set()
                    return

    def _held(self, holder: Document) -> LeaseHeld:
        since = datetime.datetime.fromtimestamp(holder["since"]).astimezone().isoformat(" ", "seconds")
        left = max(_left(holder, self._store), 0)
        return LeaseHeld(
            f"run {self.run} is driven by process {holder['pid']} on {holder['host']} since {since}: wait for it, "
            f"or end that process; if it is dead, try again in {left:.0f} s",
            self._store.url,
        )


def holder(store: ObjectStore, run: str, *, folder: str | None = None) -> Document | None:
    """Return the lease of the current driver of `run` (`host`, `pid`, `since`, `until`); None if free or unreadable."""
    try:
        lease = documents.read(store, checked(f"{folder or f'runs/{run}'}/lease.json"), StoredLease)
    except (NotFound, Damaged):
        return None
    return None if _free(lease, store) else lease


def _free(lease: Document, store: ObjectStore) -> bool:
    try:
        return not lease["until"] or has_ended(lease) or _left(lease, store) <= 0
    except (KeyError, TypeError):
        return True


def _left(lease: Document, store: ObjectStore) -> float:
    """Return the seconds until a lease expires, by a clock that its holder and this process share."""
    if "until_uptime" in lease and of_this_machine(lease):
        return float(lease["until_uptime"]) - uptime()
    return float(lease["until"]) - _now(store)


def _now(store: ObjectStore) -> float:
    """Return the store's time, in which leases are written; this host's where the store may only be read."""
    try:
        return store.now()
    except StoreError as error:
        _log.info("the store does not tell the time, so this host's is taken: %s", error)
        return time.time()


def uptime() -> float:
    """Return the seconds since this machine was booted, which no change of its clock moves."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others, an id included."""
    pid = os.getpid()
    return {
        "id": uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": pid,
        "started": _started(pid),
        "since": time.time(),
    }


def _machine() -> str:
    """Return the boot and the process namespace, within which a process number is unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@contextmanager
def at_work() -> Iterator[Document]:
    """Yield a document that names this process as at work, until the context ends."""
    holder = this_process()
    _held_ids.add(holder["id"])
    try:
        yield holder
    finally:
        _held_ids.discard(holder["id"])


def is_at_work(holder: Document) -> bool:
    """Return whether a document of `at_work` names a process of this machine that is at work; False if unknown."""
    try:
        return of_this_machine(holder) and not has_ended(holder)
    except (KeyError, TypeError):
        return False


def of_this_machine(lease: Document) -> bool:
    """Return whether the holder is or was a process of this machine since its boot."""
    return bool(lease["machine"]) and lease["machine"] == _machine() and lease["host"] == socket.gethostname()


def has_ended(lease: Document) -> bool:
    """Return whether the holder was a process of this machine that has ended or released it; False if unknown."""
    if not of_this_machine(lease):
        return False
    if lease["pid"] == os.getpid() and str(lease["started"]) == _started(os.getpid()):
        return lease["id"] not in _held_ids
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # alive, of another user, whose /proc entry may be hidden
        return False
    return _started(lease["pid"]) != str(lease["started"])


def _started(pid: int) -> str:
    """Return the start time of a process in kernel ticks, unique among reuses of its number; "" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _replace(error: Damaged) -> None:
    _log.warning("%s; the damaged lease cannot protect the run, so it is replaced", error)
