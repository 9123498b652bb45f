"""Which requests are answered together? A stand-in until the batching engine is here: one thread, in order."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

from regraft.errors import RegraftError
from regraft.serving.engine import Encoded, Engine


class Full(RegraftError):
    """The queue is full; come again after `retry_after` seconds."""

    def __init__(self, message: str, where: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, where)
        self.retry_after = retry_after


class Batcher:
    """Gives what is submitted to the engine, several at a time, from one thread."""

    def __init__(self, engine: Engine, *, queue_size: int = 256) -> None:
        self._engine = engine
        self._queue: queue.Queue[tuple[Encoded, Future[Any]] | None] = queue.Queue(queue_size)
        self._thread = threading.Thread(target=self._run, name="regraft-batcher", daemon=True)
        self._thread.start()

    def submit(self, encoded: Encoded) -> Future[Any]:
        """The answer to come; Full when too many wait."""
        future: Future[Any] = Future()
        try:
            self._queue.put_nowait((encoded, future))
        except queue.Full:
            raise Full(f"{self._queue.maxsize} requests wait") from None
        return future

    def close(self) -> None:
        """Answer what waits, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            encoded, future = item
            try:
                found = self._engine.answer([encoded])[0]
            except Exception as error:
                future.set_exception(error)
                continue
            if isinstance(found, RegraftError):
                future.set_exception(found)
            else:
                future.set_result(found)
