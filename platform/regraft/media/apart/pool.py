"""Processes that decode files, started when they are first needed, and ended when one takes too much."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from regraft.errors import Overloaded
from regraft.media.apart import jobs

CORES = len(os.sched_getaffinity(0))
_START_S = 30.0
"""Time that a new process may take to start, besides the file's."""
_JOBS = 200
"""Files after which a process is replaced: decoders keep some memory."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What one file may take in a process."""

    seconds: float
    """Seconds of computing."""
    megabytes: int
    wait_s: float
    """Seconds to wait for a free process."""
    most: int = 100_000_000
    """Most pixels or samples that the file may decode to."""
    processes: int = 1
    """Most processes at once."""
    nice: int = 0
    """How far they stand back behind other processes."""

    @property
    def limits(self) -> str:
        """Return the time and the memory as text."""
        return f"{self.seconds:g} s or {self.megabytes:,} MB"


class _Process(Protocol):
    asked: int

    def ask(self, asked: bytes, content: bytes, bound: Bound) -> tuple[bytes, bytes]: ...

    def end(self) -> None: ...


class _Ended(Exception):
    """The process ended, or did not answer in time."""


class _Worker:
    """One process that runs a module."""

    def __init__(self, module: str, nice: int) -> None:
        self.asked = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(nice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def ask(self, asked: bytes, content: bytes, bound: Bound) -> tuple[bytes, bytes]:
        """Return the kind of the answer, and the answer. Raises _Ended."""
        until = time.monotonic() + jobs.PATIENCE * bound.seconds + _START_S
        head = jobs.JOB.pack(asked, bound.seconds, bound.megabytes << 20, bound.most, len(content))
        self.asked += 1
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(head)
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except OSError:
            raise _Ended from None
        kind, length = jobs.ANSWER.unpack(self._read(jobs.ANSWER.size, until))
        return kind, self._read(length, until)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self, length: int, until: float) -> bytes:
        assert self._process.stdout is not None
        number, found = self._process.stdout.fileno(), bytearray()
        waiting = select.poll()
        waiting.register(number, select.POLLIN)
        while len(found) < length:
            if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                raise _Ended
            piece = os.read(number, length - len(found))
            if not piece:
                raise _Ended
            found += piece
        return bytes(found)


class Pool:
    """Processes that run one module."""

    def __init__(self, module: str, bound: Bound, files: str) -> None:
        """`files` is what messages call the files, in the plural."""
        self._module, self._files = module, files
        self._free, self._nice = threading.Semaphore(bound.processes), bound.nice
        self._idle: list[_Process] = []

    def ask(self, asked: bytes, content: bytes, bound: Bound) -> tuple[bytes, bytes]:
        """Return the kind of the answer, which is OVERDUE where the process had to be ended, and the answer.

        Raises Overloaded.
        """
        if not self._free.acquire(timeout=bound.wait_s):
            raise Overloaded(f"every process that decodes {self._files} is busy: try again in a few seconds")
        try:
            return self._asked(asked, content, bound)
        finally:
            self._free.release()

    def _asked(self, asked: bytes, content: bytes, bound: Bound) -> tuple[bytes, bytes]:
        process = self._idle.pop() if self._idle else _Worker(self._module, self._nice)
        try:
            answer = process.ask(asked, content, bound)
        except _Ended:
            process.end()
            return jobs.OVERDUE, b""
        except BaseException:
            process.end()
            raise
        if process.asked < _JOBS:
            self._idle.append(process)
        else:
            process.end()
        return answer


_pools: dict[tuple[int, str, bytes], Pool] = {}
_making = threading.Lock()


def pool_of(module: str, asked: bytes, bound: Bound, files: str) -> Pool:
    """Return the processes for what is asked: those for requests stand back, those for data need not."""
    with _making:
        return _pools.setdefault((os.getpid(), module, asked), Pool(module, bound, files))
