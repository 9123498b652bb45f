"""A batch prediction that dies at a chosen write; a separate module, which a child process can import."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import regraft.serving.batch.session as bulk
from regraft.serving.batch.session import BatchRequest, predict_here
from regraft.store.folder import FolderStore
from regraft.store.objects import Body, ObjectStore, open_store


class FakePowerCut(BaseException):
    """Ends a process as a power cut would: nothing can be written afterwards."""


class FakeDyingStore(FolderStore):
    """A store that kills its process at a write, or refuses all writes from then on."""

    at, writes, kill = 0, 0, False

    def put(self, key: str, body: Body) -> None:
        FakeDyingStore.writes += 1
        if FakeDyingStore.kill and FakeDyingStore.writes == FakeDyingStore.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self._alive()
        super().put(key, body)

    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        self._alive()
        super().put_if_match(key, data, tag)

    def delete(self, keys: Iterable[str]) -> None:
        self._alive()
        super().delete(keys)

    def _alive(self) -> None:
        if FakeDyingStore.writes >= FakeDyingStore.at:
            raise FakePowerCut


def opened(url: str) -> ObjectStore:
    """Open the work folder as a store that dies, and any other normally."""
    return FakeDyingStore(url) if url.endswith(".unfinished") else open_store(url)


@contextmanager
def dying(at: int, *, kill: bool) -> Iterator[None]:
    """Let the work folder die instead of its `at`-th write, within the block."""
    FakeDyingStore.at, FakeDyingStore.writes, FakeDyingStore.kill = at, 0, kill
    vars(bulk)["open_store"] = opened
    try:
        yield
    finally:
        vars(bulk)["open_store"] = open_store


def die_at(request: BatchRequest, at: int) -> None:
    """Predict in a process that is killed instead of its `at`-th write into the work folder."""
    with dying(at, kill=True):
        predict_here(request)
