"""Loaded versions in memory: each is loaded once, and the least recently used leave when a byte budget is exceeded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from copy import copy
from threading import Lock

from regraft.errors import BaseError, Damaged, RegraftError, UnknownPlugin, Unsupported
from regraft.serving.engine.version_loader import ServedVersion

RETRY_AFTER_S = 5.0
"""A version that failed to load is tried again after this: loading it again for each row would delay all others."""
PERMANENT = (Damaged, BaseError, UnknownPlugin, Unsupported)
"""Errors that an immediate retry cannot cure."""

_Key = tuple[str, str]


class VersionCache:
    """Versions by model and version, within a byte budget. All methods may be called from any thread."""

    def __init__(self, load: Callable[[str, str], ServedVersion], budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.loads = self.evictions = 0
        self._load = load
        self._lock = Lock()
        """Never held while anything is read or computed."""
        self._versions: OrderedDict[_Key, ServedVersion] = OrderedDict()
        self._loading: dict[_Key, Future[ServedVersion]] = {}
        self._failures: dict[_Key, tuple[float, RegraftError]] = {}
        """Recent errors, and until when each is raised again without a retry."""

    def __contains__(self, key: _Key) -> bool:
        return key in self._versions

    def versions(self) -> list[ServedVersion]:
        """Return the loaded versions, the least recently used first."""
        with self._lock:
            return list(self._versions.values())

    def get(self, model: str, version: str) -> ServedVersion | None:
        """Return a version if it is loaded, and mark it as used."""
        with self._lock:
            found = self._versions.get((model, version))
            if found is not None:
                self._versions.move_to_end((model, version))
            return found

    def discard(self, served: ServedVersion) -> None:
        """Remove a version, unless another one has taken its place."""
        with self._lock:
            if self._versions.get((served.model, served.version)) is served:
                del self._versions[served.model, served.version]

    def load(self, model: str, version: str) -> ServedVersion:
        """Load a version; concurrent callers of one version wait for a single load, and get its error if it fails."""
        key = model, version
        with self._lock:
            until, recent = self._failures.get(key, (0.0, None))
            if recent is not None and time.monotonic() < until:
                raise copy(recent)
            pending = self._loading.get(key)
            future = pending or self._loading.setdefault(key, Future())
        if pending is not None:
            return pending.result()
        try:
            served = self._load(model, version)
        except BaseException as error:
            self._record_failure(key, error)
            future.set_exception(error)
            raise
        self._add(key, served)
        future.set_result(served)
        return served

    def _add(self, key: _Key, served: ServedVersion) -> None:
        with self._lock:
            del self._loading[key]
            self._versions[key] = served
            self.loads += 1
            self._evict()

    def _evict(self) -> None:
        """Remove the least recently used versions; rows that are under way keep theirs until they are answered."""
        while len(self._versions) > 1 and sum(one.bytes for one in self._versions.values()) > self.budget_bytes:
            self._versions.popitem(last=False)
            self.evictions += 1

    def _record_failure(self, key: _Key, error: BaseException) -> None:
        now = time.monotonic()
        with self._lock:
            del self._loading[key]
            if isinstance(error, PERMANENT):
                self._failures = {known: kept for known, kept in self._failures.items() if kept[0] > now}
                self._failures[key] = now + RETRY_AFTER_S, copy(error)
