"""Routes from names to versions: the registry is polled, and a name moves only to versions that are loaded.

A route belongs to a model, or to a model at an alias, as requests name it. When it comes to mean another version, that
version is loaded first, and the old one answers until then: promoting a broken version takes nothing out of service.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from regraft.endpoint.error_guard import ENDING
from regraft.endpoint.metrics import Metrics, NoMetrics
from regraft.errors import NotFound, RegraftError
from regraft.spec.serve import EVERY, ServeSpec
from regraft.store import names
from regraft.store.names import LATEST, is_version
from regraft.store.objects import ObjectStore
from regraft.store.registry_view import RegistryModel, RegistryView

BARE = ""
"""The reference of a request that names no alias and no version."""
_MIN_REFRESH_S = 0.1
"""A request for an unknown name refreshes the registry, but no more often than this."""
_RETRY_S = 30.0
"""A version that failed to load is tried again after this."""

OpenVersion = Callable[[str, str], object]
"""Loads a version of a model."""
TrafficSplit = tuple[tuple[str, float], ...]
"""Versions, with their shares of the requests."""
RouteKey = tuple[str, str]
"""A model and a reference: an alias, `latest` or BARE."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRoute:
    """The versions that a name means."""

    answering: TrafficSplit
    """Versions that answer now."""
    wanted: TrafficSplit
    """Versions that should answer by the registry, or by the spec."""
    warm: bool = False
    """Whether requests rely on it: then it moves only to loaded versions."""
    trouble: str = ""
    """Why `wanted` does not answer yet."""
    tried: float = 0.0


RouteTable = Mapping[RouteKey, ModelRoute]


class ModelRoutes:
    """The models of an endpoint, and which versions answer for them. All methods may be called from any thread."""

    def __init__(
        self, store: ObjectStore, spec: ServeSpec, open_version: OpenVersion, metrics: Metrics | None = None
    ) -> None:
        self._url = store.url
        self._store = store
        self.trouble = ""
        """Why the registry cannot be read now; empty while it can."""
        self._registry = RegistryView(store)
        self._open = open_version
        self._metrics = metrics or NoMetrics()
        self._splits = spec.shares
        self._serves_all = EVERY in spec.models
        parsed = [written.partition("@") for written in spec.models if written != EVERY]
        self._named = {name: ref or LATEST for name, _, ref in parsed}
        self._refresh_s = spec.refresh_seconds
        self._lock = threading.RLock()
        self._refreshing = threading.Lock()
        self._views: Mapping[str, RegistryModel] = {}
        self._registered: list[str] = []
        self._routes: dict[RouteKey, ModelRoute] = {}
        self._moving: set[RouteKey] = set()
        self._refreshed = float("-inf")
        self._random = random.Random()
        self._stop = threading.Event()
        self._movers = ThreadPoolExecutor(2, thread_name_prefix="regraft-open")
        self._thread = threading.Thread(target=self._poll, name="regraft-watch", daemon=True)

    def start(self) -> None:
        """Refresh once, load the models that the spec names, and start polling in another thread.

        Their aliases are loaded too: a replica that starts beside others gets requests for them at once. A named model
        that fails to load is logged, and tried again when it is requested. Raises NotFound for one that does not exist,
        and the first error when none could be loaded.
        """
        self._store.hold()
        self.refresh()
        for name in self._named:
            self._check_exists(name)
        for name in self._named:  # before the models themselves, which are then the last to be evicted
            for alias in self._aliases(name, self._views[name]):
                self._load_route(name, alias)
        errors = [error for name in self._named if (error := self._load_route(name, BARE))]
        if errors and len(errors) == len(self._named) and not self._serves_all:
            raise errors[0]
        self._thread.start()

    def close(self) -> None:
        """Stop polling."""
        self._stop.set()
        self._movers.shutdown(wait=False, cancel_futures=True)

    def models(self) -> list[str]:
        """Return the names of the models that are served, sorted."""
        return sorted(name for name in self._views if self._serves(name))

    def registry_view(self, model: str) -> RegistryModel | None:
        """Return the versions and aliases of a model that is served."""
        return self._views.get(model) if self._serves(model) else None

    def stamp(self, model: str, version: str) -> str:
        """Return a value that differs when the version was written again; empty for an unknown version."""
        view = self._views.get(model)
        return view.stamps.get(version, "") if view else ""

    def routes_of(self, model: str) -> RouteTable:
        """Return the current routes of a model."""
        with self._lock:
            return {key: route for key, route in self._routes.items() if key[0] == model}

    def at_hand(self, model: str, ref: str) -> str | None:
        """Return the version that answers a request, or None when only `find` may know it."""
        if is_version(ref):
            view = self.registry_view(model)
            return ref if view and ref in view.versions else None
        route = self._routes.get((model, ref))
        return self._pick(route.answering) if route and route.answering else None

    def find(self, model: str, ref: str, known: Iterable[str] | None = None, since: float | None = None) -> str:
        """Return the version that answers, after a refresh of the registry if it is unknown.

        A refresh that began after `since` (monotonic clock; default now) is recent enough, so that many requests for an
        unknown name cost a single one. Raises NotFound, which suggests names of `known`.
        """
        if found := self.at_hand(model, ref):
            return found
        self._refresh_after(time.monotonic() if since is None else since)
        if found := self.at_hand(model, ref):
            return found
        view = self.registry_view(model)
        if view is None:
            raise names.unknown("model", model, self.models() if known is None else known, self._url)
        refs = [*self._aliases(model, view), *view.versions]
        wanted = self._named.get(model, LATEST) if ref == BARE else ref
        raise names.unknown(f"{model}: version or alias", wanted, refs, self._url)

    def relied_on(self, model: str, ref: str) -> None:
        """Record that a request was answered by this name: from now on it moves only to loaded versions."""
        route = self._routes.get((model, ref))
        if route is None or route.warm:
            return
        with self._lock:
            if route := self._routes.get((model, ref)):
                self._routes[model, ref] = replace(route, warm=True)

    def refresh(self) -> None:
        """Read the registry, and start the moves that follow from it."""
        self._refresh_after(time.monotonic(), pause_s=0.0)

    def _refresh_after(self, since: float, pause_s: float = _MIN_REFRESH_S) -> None:
        """Refresh unless a refresh began after `since`; two refreshes are at least `pause_s` apart."""
        with self._refreshing:
            if self._refreshed > since:
                return
            self._stop.wait(max(0.0, self._refreshed + pause_s - time.monotonic()))
            started = time.monotonic()
            registered = self._registry.models()
            views = {name: view for name, view in registered.items() if self._serves(name)}
            wanted = self._wanted_routes(views)
            with self._lock:
                self._views, self._registered, self._refreshed = views, sorted(registered), started
                for key in self._routes.keys() - wanted.keys():
                    del self._routes[key]
                moves = [key for key, split in wanted.items() if self._begin_move(key, split)]
            for key in moves:
                self._movers.submit(self._move, key)

    def _wanted_routes(self, views: Mapping[str, RegistryModel]) -> dict[RouteKey, TrafficSplit]:
        return {
            (model, ref): split
            for model, view in views.items()
            for ref in (BARE, LATEST, *self._aliases(model, view))
            if (split := self._wanted(model, ref, view))
        }

    def _poll(self) -> None:
        while not self._stop.wait(self._refresh_s):
            try:
                self.refresh()
            except RegraftError as error:
                self._unread(str(error))
            except ENDING:
                raise
            except BaseException as error:  # a panic of an extension in Rust is no Exception
                _log.exception("the registry could not be read, the known routes stay")
                self._unread(type(error).__name__)
            else:
                if self.trouble:
                    _log.warning("the registry can be read again")
                    self._metrics.store_readable(True)
                self.trouble = ""

    def _unread(self, why: str) -> None:
        """Record why the registry cannot be read; a reason is logged once, not at every poll."""
        if why != self.trouble:
            _log.warning("the registry could not be read, the known routes stay: %s", why)
            self._metrics.store_readable(False)
        self.trouble = why

    def _serves(self, model: str) -> bool:
        return self._serves_all or model in self._named

    def _aliases(self, model: str, view: RegistryModel) -> list[str]:
        return [*dict.fromkeys([*view.aliases, *(alias for name, alias in self._splits if name == model)])]

    def _wanted(self, model: str, ref: str, view: RegistryModel) -> TrafficSplit:
        """Return the versions that should answer a reference: the spec's split, an alias's version, or the newest."""
        ref = self._named.get(model, LATEST) if ref == BARE else ref
        if split := self._splits.get((model, ref)):
            return tuple(split.items())
        if ref == LATEST:
            return ((view.versions[-1], 1.0),)
        version = ref if is_version(ref) else view.aliases.get(ref)
        return ((version, 1.0),) if version else ()

    def _begin_move(self, key: RouteKey, wanted: TrafficSplit) -> bool:
        """Record the versions that a route should have; return whether they must be loaded before it moves."""
        old = self._routes.get(key)
        if old is None or (not old.warm and old.wanted != wanted):
            self._routes[key] = ModelRoute(answering=wanted, wanted=wanted)
            if len(wanted) == 1 or key in self._moving:
                return False
            # A split is loaded before any request: a version that does not load would fail its share of them.
            self._moving.add(key)
            return True
        if old.wanted != wanted:
            self._routes[key] = old = replace(old, wanted=wanted, trouble="", tried=0.0)
        due = time.monotonic() - old.tried > _RETRY_S
        if old.answering == wanted or key in self._moving or (old.trouble and not due):
            return False
        self._moving.add(key)
        return True

    def _move(self, key: RouteKey) -> None:
        route = self._routes.get(key)
        trouble = ""
        try:
            loaded, errors = self._load_split(key[0], route.wanted if route else ())
            trouble = _described(errors)
            with self._lock:
                now = self._routes.get(key)
                if route is None or now is None or now.wanted != route.wanted:
                    return  # the registry has changed meanwhile: the next refresh starts another move
                answering = loaded if loaded and (not trouble or len(route.wanted) > 1) else now.answering
                self._routes[key] = replace(now, answering=answering, trouble=trouble, tried=time.monotonic())
        finally:
            with self._lock:
                self._moving.discard(key)
        if trouble:
            _log.warning("%s does not move: %s", "@".join(filter(None, key)), trouble)

    def _load_split(self, model: str, wanted: TrafficSplit) -> tuple[TrafficSplit, dict[str, BaseException]]:
        """Load versions; return the shares of those that load, rescaled to 1, and the errors of the others."""
        loaded: list[tuple[str, float]] = []
        errors: dict[str, BaseException] = {}
        for version, share in wanted:
            try:
                self._open(model, version)
                loaded.append((version, share))
            except ENDING:
                raise
            except BaseException as error:
                errors[version] = error
        total = sum(share for _, share in loaded)
        return tuple((version, share / total) for version, share in loaded), errors

    def _check_exists(self, model: str) -> None:
        """Raise NotFound, with the registered names, for a model that does not exist."""
        try:
            self.find(model, BARE, self._registered)
        except NotFound:
            if model not in self._views:  # else it is the reference that does not exist
                raise

    def _load_route(self, model: str, ref: str) -> BaseException | None:
        """Load the versions of a named model's route; return the first error when none loads."""
        try:
            self.find(model, ref, self._registered)
        except NotFound as error:
            return error
        route = self._routes[model, ref]
        loaded, errors = self._load_split(model, route.wanted)
        trouble = _described(errors)
        with self._lock:
            answering = loaded or route.answering
            self._routes[model, ref] = replace(
                route, answering=answering, warm=bool(loaded), trouble=trouble, tried=time.monotonic()
            )
        if trouble:
            _log.warning("%s", trouble)
        return None if loaded else next(iter(errors.values()))

    def _pick(self, split: TrafficSplit) -> str:
        if len(split) == 1:
            return split[0][0]
        return self._random.choices([version for version, _ in split], [share for _, share in split])[0]


def _described(errors: Mapping[str, BaseException]) -> str:
    texts = [(version, str(error)) for version, error in errors.items()]
    return "; ".join(text if version in text else f"{version}: {text}" for version, text in texts)
