"""Decode doubtful pictures in worker processes, which are ended and replaced when one takes too much."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Protocol

from regraft.errors import DataError, Overloaded
from regraft.media.pixels import decode_worker as worker
from regraft.media.pixels.check import damage
from regraft.media.pixels.cost import CostlyPicture, UnknownPicture, is_plain, refuse_structure
from regraft.media.pixels.images import MEGAPIXELS

_START_S = 30.0
"""Time that a new process may take to start, besides the picture's."""
_CORES = len(os.sched_getaffinity(0))
_SMALL_MEGABYTES = 64
"""Megabytes that a picture of few pixels may take."""
_BYTES_A_PIXEL = 20
"""Bytes that a pixel may take while it is decoded, in a request: JPEG 2000 takes the most."""
_JOBS = 200
"""Pictures after which a process is replaced: decoders keep some memory."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What one picture may take in a worker process."""

    seconds: float
    """Seconds of computing."""
    megabytes: int
    wait_s: float
    """Seconds to wait for a free process."""
    pixels: int = MEGAPIXELS * 1_000_000
    """Most pixels that the picture may have."""
    processes: int = 1
    """Most processes at once."""
    nice: int = 0
    """How far they stand back behind other processes."""


REQUEST = Bound(seconds=5, megabytes=256, wait_s=2, processes=min(2, _CORES), nice=worker.NICE)
DATA = Bound(seconds=60, megabytes=2048, wait_s=3600, processes=min(4, _CORES))


class _Process(Protocol):
    jobs: int

    def ask(self, asked: bytes, content: bytes, bound: Bound) -> tuple[bytes, bytes]: ...

    def end(self) -> None: ...


class _Ended(Exception):
    """The process ended, or did not answer in time."""


class _Worker:
    """One worker process."""

    def __init__(self, nice: int) -> None:
        self.jobs = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", worker.__name__, str(nice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def ask(self, asked: bytes, content: bytes, bound: Bound) -> tuple[bytes, bytes]:
        """Return the kind of the answer, and the answer. Raises _Ended."""
        until = time.monotonic() + worker.PATIENCE * bound.seconds + _START_S
        head = worker.JOB.pack(asked, bound.seconds, bound.megabytes << 20, bound.pixels, len(content))
        self.jobs += 1
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(head)
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except OSError:
            raise _Ended from None
        kind, length = worker.ANSWER.unpack(self._read(worker.ANSWER.size, until))
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


class _Pool:
    """Worker processes, started when they are first needed."""

    def __init__(self, bound: Bound) -> None:
        self._free, self._nice = threading.Semaphore(bound.processes), bound.nice
        self._idle: list[_Process] = []

    def ask(self, asked: bytes, content: bytes, bound: Bound) -> bytes:
        """Return the answer. Raises CostlyPicture, DataError for a damaged picture, and Overloaded."""
        if not self._free.acquire(timeout=bound.wait_s):
            raise Overloaded("every process that decodes pictures is busy: try again in a few seconds")
        try:
            kind, reply = self._asked(asked, content, bound)
        finally:
            self._free.release()
        if kind == worker.MEMORY:
            raise CostlyPicture(
                f"image in this row takes more than the {bound.megabytes:,} MB that its size allows to decode: make it "
                "smaller, or save it as a JPEG or PNG"
            )
        if kind == worker.COSTLY:
            raise CostlyPicture(reply.decode())
        if kind == worker.UNKNOWN:
            raise UnknownPicture("image in this row is not an image of a known format")
        if kind == worker.DAMAGED:
            raise DataError(reply.decode())
        return reply

    def _asked(self, asked: bytes, content: bytes, bound: Bound) -> tuple[bytes, bytes]:
        process = self._idle.pop() if self._idle else _Worker(self._nice)
        try:
            answer = process.ask(asked, content, bound)
        except _Ended:
            process.end()
            limits = f"{bound.seconds:g} s or {bound.megabytes:,} MB"
            return worker.COSTLY, f"image in this row takes more than {limits} to decode: save it as a PNG".encode()
        except BaseException:
            process.end()
            raise
        if process.jobs < _JOBS:
            self._idle.append(process)
        else:
            process.end()
        return answer


_pools: dict[tuple[int, bytes], _Pool] = {}
_making = threading.Lock()


def checked_apart(content: bytes) -> str:
    """Return what is wrong with a picture of the data (`check.damage`), decoding a doubtful one in another process."""
    if is_plain(content):
        return damage(content)
    try:
        return _pool(worker.CHECK, DATA).ask(worker.CHECK, content, DATA).decode()
    except CostlyPicture as error:
        return "cannot be used: " + error.message.replace("image in this row", "it")


def plain_picture(content: bytes, pixels: int = MEGAPIXELS * 1_000_000) -> bytes:
    """Return a request's picture, or a doubtful one as a file whose header shows what it costs.

    A doubtful picture may have so many pixels, and its memory is bounded by them. Raises CostlyPicture, UnknownPicture,
    DataError for a damaged picture, and Overloaded.
    """
    refuse_structure(content, "image in this row")
    if is_plain(content):
        return content
    megabytes = min(REQUEST.megabytes, _SMALL_MEGABYTES + pixels * _BYTES_A_PIXEL // 1_000_000)
    bound = replace(REQUEST, pixels=pixels, megabytes=megabytes)
    return _pool(worker.CONVERT, REQUEST).ask(worker.CONVERT, content, bound)


def _pool(asked: bytes, bound: Bound) -> _Pool:
    """Return the processes for what is asked: those for requests stand back, those for data need not."""
    with _making:
        return _pools.setdefault((os.getpid(), asked), _Pool(bound))
