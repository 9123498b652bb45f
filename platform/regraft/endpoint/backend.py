"""The backend that answers the rows of a request: the interface between HTTP and the engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from regraft.contracts import Answer
from regraft.endpoint.base_watch import BaseWatch
from regraft.endpoint.http_errors import HttpError
from regraft.endpoint.metrics import Metrics, NoMetrics
from regraft.errors import DataError
from regraft.media.pixels.freed_memory import give_back_memory, keep_little_memory
from regraft.plugins import add_folder
from regraft.serving.engine.batcher import Batcher, BatchLimits
from regraft.serving.engine.engine import EncodedRow, Engine, RowRequest, ServedVersion
from regraft.spec.serve import ServeSpec
from regraft.store.objects import ObjectStore

_ENCODERS = 2
_LARGE = 13_000_000
"""Pixels or samples from which on requests are encoded one after another, for their memory; small ones go past."""
_LARGE_ANSWER = 4_000_000
"""Pixels or samples from which on a request's rows are computed beside others, in a thread of their own."""
_RETURNED = 16_000_000
"""Pixels or samples of all requests together after which freed memory is given back to the system."""


class Backend(Protocol):
    """The operations of an engine that the endpoint uses."""

    def open(self, model: str, version: str) -> ServedVersion:
        """Load a version, from any thread. Raises NotFound, Damaged, BaseError, UnknownPlugin, Unsupported."""
        ...

    def holds(self, model: str, version: str) -> bool:
        """Return whether the version is loaded now, so that `answer` need not read it from the store."""
        ...

    async def answer(self, requests: Sequence[RowRequest], tokens: int, decoded: int) -> list[Answer]:
        """Return one answer per row; their values decode to `decoded` pixels or samples.

        Raises DataError, which names the row that does not fit, and HttpError 413 for more than `tokens` tokens.
        """
        ...

    def stats(self) -> Mapping[str, Any]:
        """Return what is loaded and how much waits."""
        ...

    def changed_bases(self) -> Sequence[str]:
        """Return the hashes of bases in memory whose files on the disk are others now."""
        ...

    def close(self) -> None:
        """Answer the waiting rows, then stop."""
        ...


class EngineBackend:
    """An engine and its batcher in this process."""

    def __init__(self, store: ObjectStore, spec: ServeSpec, metrics: Metrics | None = None) -> None:
        keep_little_memory()
        for folder in spec.plugins:
            add_folder(Path(folder).expanduser())
        self._engine = Engine(
            store,
            device=spec.device,
            budget_bytes=spec.replica.budget_mb << 20,
            precision=spec.precision,
            bases=spec.bases,
        )
        limits, on_batch = spec.limits, (metrics or NoMetrics()).computed
        most = BatchLimits(items=limits.queue + limits.items)
        self._batcher = Batcher(self._engine, most, on_batch=on_batch)
        # A thread of its own: the map of a large picture takes long, and small rows are answered meanwhile.
        self._large_batcher = Batcher(self._engine, most, on_batch=on_batch)
        self._within_s = limits.seconds
        # Tokenizers and image decoders release the GIL: two threads are enough to keep one model busy.
        self._encoders = ThreadPoolExecutor(min(_ENCODERS, os.cpu_count() or 1), thread_name_prefix="regraft-encode")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="regraft-encode-large")
        self._decoded = 0
        self._watch = BaseWatch(self._engine.bases, spec.refresh_seconds)

    def open(self, model: str, version: str) -> ServedVersion:
        return self._engine.open(model, version)

    def holds(self, model: str, version: str) -> bool:
        return self._engine.holds(model, version)

    async def answer(self, requests: Sequence[RowRequest], tokens: int, decoded: int) -> list[Answer]:
        loop = asyncio.get_running_loop()
        futures: list[Future[Any]] = []
        abandoned = threading.Event()
        try:
            encoders = self._encoders if decoded <= _LARGE else self._large
            batcher = self._batcher if decoded <= _LARGE_ANSWER else self._large_batcher
            submit = partial(self._submit, batcher, tokens=tokens, futures=futures, abandoned=abandoned)
            await loop.run_in_executor(encoders, submit, requests)
            self._decoded += decoded
            if self._decoded > _RETURNED:
                self._decoded = 0
                loop.run_in_executor(self._large, give_back_memory)
            with _naming_inputs(futures):
                if len(futures) == 1:
                    return [await asyncio.wrap_future(futures[0])]
                return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
        except BaseException:
            abandoned.set()
            for future in tuple(futures):  # the other answers are not needed: rows that wait need not be computed
                future.cancel()
            raise

    def stats(self) -> Mapping[str, Any]:
        return {**vars(self._engine.stats()), **vars(self._batcher.stats().plus(self._large_batcher.stats()))}

    def changed_bases(self) -> Sequence[str]:
        return self._watch.changed

    def close(self) -> None:
        self._watch.close()
        self._encoders.shutdown(wait=True)
        self._large.shutdown(wait=True)
        self._batcher.close()
        self._large_batcher.close()

    def _submit(
        self,
        batcher: Batcher,
        requests: Sequence[RowRequest],
        *,
        tokens: int,
        futures: list[Future[Any]],
        abandoned: threading.Event,
    ) -> None:
        """Encode rows and queue them; a thread cannot be cancelled, so it checks whether the caller still waits."""
        encoded = []
        for number, request in enumerate(requests):
            if abandoned.is_set():
                return
            try:
                encoded.append(self._engine.encode(request))
            except DataError as error:
                raise _of_input(number, error) from None
        _refuse_costly(encoded, tokens)
        for item in encoded:
            futures.append(batcher.submit(item, within_s=self._within_s))
        if abandoned.is_set():
            for future in futures:
                future.cancel()


@contextlib.contextmanager
def _naming_inputs(futures: Sequence[Future[Any]]) -> Iterator[None]:
    """Name the input in the DataError of an answer."""
    try:
        yield
    except DataError as error:
        ended = (number for number, future in enumerate(futures) if future.done() and not future.cancelled())
        number = next((number for number in ended if futures[number].exception() is error), 0)
        raise _of_input(number, error) from None


def _of_input(number: int, error: DataError) -> DataError:
    return DataError(error.message, where=f"input {number}")


def _refuse_costly(encoded: Sequence[EncodedRow], tokens: int) -> None:
    """Raise HttpError 413 for too many tokens; images were measured before they were decoded."""
    total = sum(item.cost for item in encoded if item.unit == "token")
    if total > tokens:
        raise HttpError(413, "TooLarge", f"{total} tokens are asked at once; at most {tokens} are allowed: send fewer")
