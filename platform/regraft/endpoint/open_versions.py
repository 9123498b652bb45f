"""Loaded versions as requests see them: found by name, and each loaded once, however many requests wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from regraft.contracts import Task
from regraft.endpoint.api_keys import ApiKey
from regraft.endpoint.backend import Backend
from regraft.endpoint.routes import ModelRoutes
from regraft.serving.engine.engine import ServedVersion
from regraft.spec.column_names import Names

_LOADERS = 4
_MAX_REMEMBERED = 4096

_VersionKey = tuple[str, str, str]
"""A model, a version, and the stamp that differs when the version was written again."""


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """The part of a version that requests need; it holds no weights, so that the engine can evict them."""

    task: Task
    headers: Mapping[str, str]
    """Headers of an answer: the version's number and hashes."""
    names: Mapping[str, Names]
    """The columns' names in its training files, by the task's."""

    @classmethod
    def of(cls, served: ServedVersion) -> Self:
        """Return what requests need of a loaded version."""
        headers = {
            "x-model": served.model,
            "x-model-version": served.version,
            "x-model-delta": served.delta_sha256,
            "x-model-hash": served.hash,
        }
        return cls(served.task, headers, served.names)


@dataclass(slots=True)
class RequestState:
    """The state of a request so far; its answer or error contains it."""

    model: str = ""
    version: str = ""
    opened: OpenVersion | None = None
    rows: int = 0

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the version that answers, once it is known."""
        return self.opened.headers if self.opened else {}


class OpenVersions:
    """The versions that requests name. All methods belong to the event loop's thread."""

    def __init__(self, routes: ModelRoutes, backend: Backend) -> None:
        self._routes, self._backend = routes, backend
        self._remembered: dict[_VersionKey, OpenVersion] = {}
        self._loading: dict[_VersionKey, asyncio.Future[OpenVersion]] = {}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="regraft-open")
        # One thread: however many requests name unknown models, they delay no others.
        self._finder = ThreadPoolExecutor(1, thread_name_prefix="regraft-find")

    def at_hand(self, name: str, ref: str, state: RequestState) -> bool:
        """Put the version that answers into `state`; return whether it is known and loaded, as it nearly always is."""
        state.model, state.version = name, self._routes.at_hand(name, ref) or ""
        if state.version and self._backend.holds(name, state.version):
            state.opened = self._remembered.get(self._key(name, state.version))
        return state.opened is not None

    async def find(self, name: str, ref: str, key: ApiKey, state: RequestState) -> None:
        """Find and load the version that answers, and put it into `state`. Raises NotFound and errors of loading."""
        version = state.version
        if not version:
            allowed = [model for model in self._routes.models() if key.may(model)]
            since, loop = time.monotonic(), asyncio.get_running_loop()
            version = await loop.run_in_executor(self._finder, self._routes.find, name, ref, allowed, since)
        state.version = version
        # Shielded: a request that gives up must not cancel the load for others.
        state.opened = await asyncio.shield(self._load_once(self._key(name, version)))

    def _key(self, name: str, version: str) -> _VersionKey:
        return name, version, self._routes.stamp(name, version)

    def _load_once(self, wanted: _VersionKey) -> asyncio.Future[OpenVersion]:
        """Return the future of one load, which takes one thread however many requests wait for it."""
        loading = self._loading.get(wanted)
        if loading is None:
            loading = self._loading[wanted] = asyncio.ensure_future(self._load(wanted))
            loading.add_done_callback(lambda done: done.cancelled() or done.exception())  # all requests may be gone
        return loading

    async def _load(self, wanted: _VersionKey) -> OpenVersion:
        name, version, _ = wanted
        try:
            loop = asyncio.get_running_loop()
            opened = OpenVersion.of(await loop.run_in_executor(self._loaders, self._backend.open, name, version))
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[wanted] = opened
            return opened
        finally:
            del self._loading[wanted]
