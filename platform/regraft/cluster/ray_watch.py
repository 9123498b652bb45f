"""A watch on the Ray that this process uses: where its raylet or GCS has ended, the command ends with our own error.

Ray's core would end this process some seconds later, wherever it is, with messages of its own and without cleaning up.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen
from types import FrameType
from typing import Any

import psutil
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray.exceptions import RayError

from regraft.cluster import sudden_end
from regraft.errors import ClusterError, RegraftError

log = logging.getLogger(__name__)
POLL_S = 0.5
GCS_LOOK_S = 5.0
"""Seconds between two looks at the GCS of a cluster that was not started here."""
COUNT_S = 20.0
"""Seconds between two looks at the processes of a Ray that was started here."""
CONNECT_S = 3.0
LEAVE_S = 8.0
"""Seconds that the command has to end by itself. Ray's core would end it about 15 s after the end of the raylet."""
RAYLET = "its raylet, the process that runs this node, has ended"
GCS = "its GCS, the process that holds the cluster together, has ended or cannot be reached"
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's setting of the seconds for which it waits for a GCS."""
WAKE: int | None = getattr(signal, "SIGRTMIN", None)
"""The signal that interrupts the main thread; no program uses it for Ctrl-C or an end."""


def gcs_patience_s() -> float:
    """Return the seconds for which a GCS may be away: one with a database behind it comes back.

    After the time in Ray's setting, Ray's core ends the process; so we do before.
    """
    try:
        return 0.7 * float(os.environ.get(RECONNECT, "60"))
    except ValueError:
        return 40.0


class RayletProbe:
    """An idle connection to the raylet's socket: it breaks in the moment in which the raylet ends."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = self._connect()
        self._known = self._connection is not None

    def has_ended(self) -> bool:
        """Return whether the connection is broken and cannot be made again."""
        with self._lock:
            if not self._known or not self._is_broken():
                return False
            self.close()
            self._connection = self._connect()
            return self._connection is None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _is_broken(self) -> bool:
        if self._connection is None:
            return True
        try:
            return self._connection.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(self._path)
        except OSError as error:
            log.debug("the raylet's socket %s: %s", self._path, error)
            connection.close()
            return None
        connection.setblocking(False)
        return connection


class GcsProbe:
    """The GCS: a child of this process, or a server whose port is tried now and then."""

    def __init__(self, process: Popen[bytes] | None, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._process = process
        self._address = (host.strip("[]"), int(port)) if host and port.isdigit() else None
        self._patience_s = gcs_patience_s()
        self._looked = self._answered = time.monotonic()

    def has_ended(self, *, now: bool = False) -> bool:
        """Return whether it has ended; for another's GCS, whether it was away for too long, or `now` is away."""
        if self._process is not None:
            return self._process.poll() is not None
        if self._address is None or (not now and time.monotonic() - self._looked < GCS_LOOK_S):
            return False
        self._looked = time.monotonic()
        with suppress(OSError), socket.create_connection(self._address, timeout=CONNECT_S):
            self._answered = time.monotonic()
            return False
        return now or time.monotonic() - self._answered > self._patience_s


class RayWatch:
    """A thread that looks at Ray; where it has ended, it interrupts the main thread, and then ends the process."""

    def __init__(self, node: Any) -> None:
        """`node` is Ray's own description of the node that this process is connected to."""
        self.error: ClusterError | None = None
        """The error that the command is to end with, once Ray is lost."""
        self.interrupted = False
        """Whether the main thread was interrupted for it."""
        self._node, self._own_raylet = node, child_of(node, ray_constants.PROCESS_TYPE_RAYLET)
        self._raylet = RayletProbe(str(node.raylet_socket_name).removeprefix("unix://"))
        self._gcs = GcsProbe(child_of(node, ray_constants.PROCESS_TYPE_GCS_SERVER), str(node.gcs_address))
        self._below: list[psutil.Process] = []
        """The processes below an own raylet, which outlive it where it is killed."""
        self._counted = time.monotonic()
        self._lock = threading.Lock()
        self._stopped, self._closed = threading.Event(), threading.Event()
        self._in_main = threading.current_thread() is threading.main_thread()
        threading.Thread(target=self._run, name="regraft-ray-watch", daemon=True).start()

    def look(self, *, failed: bool = False) -> ClusterError | None:
        """Look at Ray, and return the error if it is lost; after a call that `failed`, no GCS is waited for."""
        if self.error is None and not self._stopped.is_set():
            self._found(self._missing(now=failed))
        return self.error

    @property
    def is_own(self) -> bool:
        """Whether this process has started the node's raylet."""
        return self._own_raylet is not None

    def stop(self) -> None:
        """Look no longer: Ray is about to be ended by this process itself."""
        with self._lock:
            self._stopped.set()

    def close(self) -> None:
        """End the watch: all that uses Ray has returned."""
        self.stop()
        self._closed.set()
        self._raylet.close()

    def on_wake(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the main thread, as Ctrl-C does: calls of Ray return for no other error."""
        if self.error is not None and not self._closed.is_set():
            self.interrupted = True
            raise KeyboardInterrupt

    def end_processes(self) -> None:
        """End what is left of a Ray that was started here; its agents would stay for a minute."""
        if self._own_raylet is None:
            return
        self._node.kill_all_processes(check_alive=False, allow_graceful=False)
        for process in self._below:
            with suppress(psutil.Error):  # most have ended; psutil kills no other process of the same number
                process.kill()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_S):
            if self._found(self._missing()):
                break
            self._count()
        if self.error is None:
            return
        self._count(now=True)
        with self._lock:  # once it is stopped, the signal's handler may be gone
            if self._in_main and WAKE is not None and not self._stopped.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, WAKE)
        if not self._closed.wait(LEAVE_S):
            with suppress(Exception):
                self.end_processes()
            sudden_end.leave(self.error)

    def _count(self, *, now: bool = False) -> None:
        """Remember now and then what runs below an own raylet: after its end they have no parent to be found by."""
        if self._own_raylet is not None and (now or not self._below or time.monotonic() - self._counted > COUNT_S):
            self._counted = time.monotonic()
            self._below = children_of(self._own_raylet.pid) or self._below

    def _missing(self, *, now: bool = False) -> str | None:
        if self._raylet.has_ended():
            return RAYLET
        return GCS if self._gcs.has_ended(now=now) else None

    def _found(self, missing: str | None) -> bool:
        with self._lock:
            if missing is not None and not self._stopped.is_set():
                self.error = self.error or ClusterError(
                    f"Ray was lost: {missing}; what was stored is kept, and the same command goes on from there"
                )
            return self.error is not None


_current: RayWatch | None = None


def child_of(node: Any, kind: str) -> Popen[bytes] | None:
    """Return the process of this kind that Ray's node object has started; None if it has started none."""
    started = node.all_processes.get(kind)
    return started[0].process if started else None


def children_of(pid: int) -> list[psutil.Process]:
    """Return the processes below a process; none where it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def is_lost() -> bool:
    """Return whether Ray was found lost: calls of it would be waited for in vain."""
    return _current is not None and _current.error is not None


def ends_with_command() -> bool:
    """Return whether Ray was started for this command, so that all that runs on it ends with it."""
    return _current is not None and _current.is_own


def raise_if_lost() -> None:
    """Raise ClusterError if Ray is lost: what failed is then not the fault of a worker."""
    if _current is not None and (error := _current.look()):
        raise error


@contextmanager
def watching(end: Callable[[], object]) -> Iterator[None]:
    """Watch Ray for the block, and then call `end`. Raises ClusterError where Ray was lost, or failed by itself."""
    global _current
    if _current is not None or (node := ray_worker._global_node) is None:
        with _own_errors(_current):
            yield
        return
    watch = _current = RayWatch(node)
    before = signal.signal(WAKE, watch.on_wake) if watch._in_main and WAKE is not None else None
    try:
        with _own_errors(watch):
            yield
    finally:
        try:
            watch.stop()
            end()
            if watch.error is not None:
                watch.end_processes()
        finally:
            _current = None
            watch.close()
            if before is not None and WAKE is not None:
                signal.signal(WAKE, before)


@contextmanager
def _own_errors(watch: RayWatch | None) -> Iterator[None]:
    """Raise ClusterError in place of an error that only says, in Ray's words, that Ray is lost or failed."""
    try:
        yield
    except BaseException as error:
        of_ray = isinstance(error, RayError) and not isinstance(error, RegraftError)
        if watch and (lost := watch.look(failed=of_ray or isinstance(error, ClusterError))):
            raise lost from error
        if of_ray:
            raise ClusterError(f"Ray failed: {type(error).__name__}: {first_line(str(error))}") from error
        raise
    if watch is not None and watch.interrupted and watch.error is not None:
        raise watch.error  # the interrupt was taken for Ctrl-C


def first_line(text: str) -> str:
    """Return the first line that is not blank."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")
