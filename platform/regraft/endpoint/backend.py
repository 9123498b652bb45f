"""Who answers the rows of a request: the seam between HTTP and the engine."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from regraft.contracts import Answer
from regraft.endpoint.http_errors import HttpError
from regraft.endpoint.metrics import Metrics, NoMetrics
from regraft.serving.engine.batcher import Batcher, BatchLimits
from regraft.serving.engine.engine import EncodedRow, Engine, RowRequest, ServedVersion
from regraft.spec.serve import ServeSpec
from regraft.store.objects import ObjectStore

_ENCODERS = 2


class Backend(Protocol):
    """What the endpoint needs of an engine."""

    def open(self, model: str, version: str) -> ServedVersion:
        """The version, loaded; any thread. NotFound, Damaged, BaseError, UnknownPlugin, Unsupported."""
        ...

    def holds(self, model: str, version: str) -> bool:
        """Whether the version is loaded now, so that `answer` need not read it from the store."""
        ...

    async def answer(self, asks: Sequence[RowRequest], tokens: int) -> list[Answer]:
        """One answer each; DataError names the row that does not fit, Refusal 413 when there are too many tokens."""
        ...

    def stats(self) -> Mapping[str, Any]:
        """What is loaded and how much waits."""
        ...

    def close(self) -> None:
        """Answer what waits, then end."""
        ...


class EngineBackend:
    """An engine and its batcher in this process."""

    def __init__(self, store: ObjectStore, spec: ServeSpec, metrics: Metrics | None = None) -> None:
        self._engine = Engine(
            store,
            device=spec.device,
            budget_bytes=spec.replica.budget_mb << 20,
            precision=spec.precision,
            plugins=spec.plugins,
            bases=spec.bases,
        )
        limits, told = spec.limits, (metrics or NoMetrics()).computed
        self._batcher = Batcher(self._engine, BatchLimits(items=limits.queue + limits.items), told=told)
        self._within_s = limits.seconds
        # Tokenizers let go of the interpreter's lock, image decoders too: two threads are enough to keep one model fed.
        self._encoders = ThreadPoolExecutor(min(_ENCODERS, os.cpu_count() or 1), thread_name_prefix="regraft-encode")

    def open(self, model: str, version: str) -> ServedVersion:
        return self._engine.open(model, version)

    def holds(self, model: str, version: str) -> bool:
        return self._engine.holds(model, version)

    async def answer(self, asks: Sequence[RowRequest], tokens: int) -> list[Answer]:
        loop = asyncio.get_running_loop()
        futures: list[Future[Any]] = []
        given_up = threading.Event()
        try:
            await loop.run_in_executor(self._encoders, self._submit, asks, tokens, futures, given_up)
            if len(futures) == 1:
                return [await asyncio.wrap_future(futures[0])]
            return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in futures)))
        except BaseException:
            given_up.set()
            for future in tuple(futures):  # nobody waits for the others: what has not begun need not begin
                future.cancel()
            raise

    def stats(self) -> Mapping[str, Any]:
        return {**vars(self._engine.stats()), **vars(self._batcher.stats())}

    def close(self) -> None:
        self._encoders.shutdown(wait=True)
        self._batcher.close()

    def _submit(
        self, asks: Sequence[RowRequest], tokens: int, futures: list[Future[Any]], given_up: threading.Event
    ) -> None:
        """Encode rows and hand them on; a thread cannot be ended, so it looks whether anybody still waits."""
        encoded = []
        for ask in asks:
            if given_up.is_set():
                return
            encoded.append(self._engine.encode(ask))
        _refuse_costly(encoded, tokens)
        for item in encoded:
            futures.append(self._batcher.submit(item, within_s=self._within_s))
        if given_up.is_set():
            for future in futures:
                future.cancel()


def _refuse_costly(encoded: Sequence[EncodedRow], tokens: int) -> None:
    """Texts count by their tokens; images were measured before they were decoded."""
    total = sum(item.cost for item in encoded if item.unit == "token")
    if total > tokens:
        raise HttpError(413, "TooLarge", f"{total} tokens are asked at once; at most {tokens} are allowed: send fewer")
