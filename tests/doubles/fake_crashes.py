"""Kill a process just before or just after its n-th change to a store, for every n."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from botocore.client import BaseClient

from regraft.store.objects import Body, ObjectStore, Stat

CHANGES = ("open", "write", "fsync", "link", "replace", "unlink", "mkdir", "rmdir")
"""The system calls with which a folder store makes changes."""
READS = ("Get", "Head", "List")
"""Prefixes of the names of S3 requests that change nothing."""


class Countdown:
    """Kills the process before or after change number `at` (from 0); only counts changes if `at` is negative."""

    def __init__(self, at: int, moment: str) -> None:
        self.at, self.moment, self.count = at, moment, 0

    def around(self, change: Callable[[], Any]) -> Any:
        mine = self.count == self.at
        self.count += 1
        if mine and self.moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return change()
        finally:
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)


class FakeCountingStore(ObjectStore):
    """A wrapper of another store that counts every change."""

    def __init__(self, inner: ObjectStore, countdown: Countdown) -> None:
        self.inner, self.countdown, self.url = inner, countdown, inner.url

    def get(self, key: str) -> bytes:
        return self.inner.get(key)

    def fetch(self, key: str, path: Path) -> None:
        self.inner.fetch(key, path)

    def read(self, key: str, most: int | None = None) -> tuple[bytes, str]:
        return self.inner.read(key, most)

    def put(self, key: str, body: Body) -> None:
        self.countdown.around(lambda: self.inner.put(key, body))

    def put_if_absent(self, key: str, data: bytes) -> None:
        self.countdown.around(lambda: self.inner.put_if_absent(key, data))

    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        self.countdown.around(lambda: self.inner.put_if_match(key, data, tag))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.countdown.around(lambda key=key: self.inner.delete([key]))  # type: ignore[misc]

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def check(self) -> None:
        self.inner.check()

    def local(self, key: str) -> Path | None:
        return self.inner.local(key)

    def sweep(self, older_than_s: float) -> tuple[str, ...]:
        return self.inner.sweep(older_than_s)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        return self.inner.list(prefix)


@contextlib.contextmanager
def counted_system(countdown: Countdown) -> Iterator[None]:
    """Count every system call that makes a change with `countdown`."""
    real = {name: getattr(os, name) for name in CHANGES}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real[name](*args, **kwargs)
            return countdown.around(lambda: real[name](*args, **kwargs))

        return call

    try:
        for name in CHANGES:
            setattr(os, name, counted(name))
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)


@contextlib.contextmanager
def counted_requests(countdown: Countdown) -> Iterator[None]:
    """Count every S3 request of this process that makes a change with `countdown`."""
    real = BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(client: Any, operation: str, arguments: Any) -> Any:
        if operation.startswith(READS):
            return real(client, operation, arguments)
        return countdown.around(lambda: real(client, operation, arguments))

    BaseClient._make_api_call = call  # type: ignore[attr-defined]
    try:
        yield
    finally:
        BaseClient._make_api_call = real  # type: ignore[attr-defined]


def changes_of(work: Callable[[Countdown], object]) -> int:
    """Return the number of changes that `work` makes, counted in a child process that is not killed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            countdown = Countdown(-1, "")
            work(countdown)
            os.write(write, str(countdown.count).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as file:
        return int(file.read())


def killed_at(work: Callable[[Countdown], object], at: int, moment: str) -> None:
    """Run `work` in a child process that is killed at change number `at`."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            work(Countdown(at, moment))
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "the child ended before it was killed"
