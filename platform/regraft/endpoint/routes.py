"""Which version answers for a name now? The registry, looked at again and again, and moved to only what is open.

A route is what a request names: a model, or a model at an alias. When it comes to mean another version, that version
is opened first, and until it is open the old one answers: a promotion of something broken takes nothing away.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from regraft.errors import NotFound, RegraftError
from regraft.spec.serve import EVERY, ServeSpec
from regraft.store import names
from regraft.store.names import LATEST, is_version
from regraft.store.objects import ObjectStore
from regraft.store.registry_view import RegistryModel, RegistryView

BARE = ""
"""The reference of a request that writes none."""
_MISS_S = 0.1
"""A name that is not there makes the registry be looked at again, but no more often than this."""
_AGAIN_S = 30.0
"""A version that could not be opened is tried again after this."""

Open = Callable[[str, str], object]
TrafficSplit = tuple[tuple[str, float], ...]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRoute:
    """What a name means."""

    answering: TrafficSplit
    """Versions that answer, with their shares of the requests."""
    wanted: TrafficSplit
    """What the registry, or the spec, says it should be."""
    warm: bool = False
    """Whether somebody relies on it: then it moves only to what is open."""
    trouble: str = ""
    """Why `wanted` does not answer yet."""
    tried: float = 0.0


Name = tuple[str, str]
RouteTable = Mapping[Name, ModelRoute]


class ModelRoutes:
    """The models of an endpoint. Every method may be called from any thread."""

    def __init__(self, store: ObjectStore, spec: ServeSpec, opened: Open) -> None:
        self._url = store.url
        self._registry = RegistryView(store)
        self._open = opened
        self._shares = spec.shares
        self._every = EVERY in spec.models
        parsed = [written.partition("@") for written in spec.models if written != EVERY]
        self._named = {name: ref or LATEST for name, _, ref in parsed}
        self._refresh_s = spec.refresh_seconds
        self._lock = threading.RLock()
        self._looking = threading.Lock()
        self._views: Mapping[str, RegistryModel] = {}
        self._there: list[str] = []
        self._routes: dict[Name, ModelRoute] = {}
        self._moving: set[Name] = set()
        self._looked = float("-inf")
        self._draw = random.Random()
        self._end = threading.Event()
        self._movers = ThreadPoolExecutor(2, thread_name_prefix="regraft-open")
        self._thread = threading.Thread(target=self._watch, name="regraft-watch", daemon=True)

    def start(self) -> None:
        """Look once, open the models that the spec names, then keep looking from another thread.

        Their aliases are opened too: a replica that begins beside others is asked by them at once. A named model that
        cannot be opened is told of and tried again when it is asked; NotFound for one that does not exist, and the
        error of the first when none could be opened.
        """
        self.look()
        for name in self._named:
            self._known(name)
        for name in self._named:  # before the models themselves, which are then the last to be let go of
            for alias in self._aliases(name, self._views[name]):
                self._warmed(name, alias)
        errors = [error for name in self._named if (error := self._warmed(name, BARE))]
        if errors and len(errors) == len(self._named) and not self._every:
            raise errors[0]
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        self._movers.shutdown(wait=False, cancel_futures=True)

    def models(self) -> list[str]:
        """Names of the models that are served, sorted."""
        return sorted(name for name in self._views if self._wants(name))

    def registry_view(self, model: str) -> RegistryModel | None:
        """The versions and aliases of a model that is served."""
        return self._views.get(model) if self._wants(model) else None

    def stamp(self, model: str, version: str) -> str:
        """What is another once the version is another one under the same name; empty for one that is not there."""
        registry_view = self._views.get(model)
        return registry_view.stamps.get(version, "") if registry_view else ""

    def routes_of(self, model: str) -> RouteTable:
        """What each reference of a model means now."""
        with self._lock:
            return {name: route for name, route in self._routes.items() if name[0] == model}

    def at_hand(self, model: str, ref: str) -> str | None:
        """The version that answers, or None: then `find` may know more."""
        if is_version(ref):
            registry_view = self.registry_view(model)
            return ref if registry_view and ref in registry_view.versions else None
        route = self._routes.get((model, ref))
        return self._drawn(route.answering) if route and route.answering else None

    def find(self, model: str, ref: str, known: Iterable[str] | None = None, since: float | None = None) -> str:
        """As `at_hand`, with another look at the registry for what is not there; NotFound names those of `known`.

        A look that began after `since` (on the monotonic clock; now, if none is given) is as good as another one, so
        that many requests for what is not there cost one.
        """
        if found := self.at_hand(model, ref):
            return found
        self._look_after(time.monotonic() if since is None else since)
        if found := self.at_hand(model, ref):
            return found
        registry_view = self.registry_view(model)
        if registry_view is None:
            raise names.unknown("model", model, self.models() if known is None else known, self._url)
        refs = [*self._aliases(model, registry_view), *registry_view.versions]
        wanted = self._named.get(model, LATEST) if ref == BARE else ref
        raise names.unknown(f"{model}: version or alias", wanted, refs, self._url)

    def relied_on(self, model: str, ref: str) -> None:
        """An answer was given under this name: from now on it moves only to what is open."""
        route = self._routes.get((model, ref))
        if route is None or route.warm:
            return
        with self._lock:
            if route := self._routes.get((model, ref)):
                self._routes[model, ref] = replace(route, warm=True)

    def look(self) -> None:
        """Look at the registry and begin what follows from it."""
        self._look_after(time.monotonic(), pause_s=0.0)

    def _look_after(self, since: float, pause_s: float = _MISS_S) -> None:
        with self._looking:
            if self._looked > since:
                return
            self._end.wait(max(0.0, self._looked + pause_s - time.monotonic()))
            began = time.monotonic()
            there = self._registry.look()
            registry_view = {name: found for name, found in there.items() if self._wants(name)}
            wanted = {
                (model, ref): shares
                for model, found in registry_view.items()
                for ref in (BARE, LATEST, *self._aliases(model, found))
                if (shares := self._meant(model, ref, found))
            }
            with self._lock:
                self._views, self._there, self._looked = registry_view, sorted(there), began
                for name in self._routes.keys() - wanted.keys():
                    del self._routes[name]
                moves = [name for name, shares in wanted.items() if self._turned(name, shares)]
            for name in moves:
                self._movers.submit(self._move, name)

    def _watch(self) -> None:
        while not self._end.wait(self._refresh_s):
            try:
                self.look()
            except RegraftError as error:
                _log.warning("the registry could not be looked at, what was known goes on: %s", error)
            except Exception:
                _log.exception("the registry could not be looked at, what was known goes on")

    def _wants(self, model: str) -> bool:
        return self._every or model in self._named

    def _aliases(self, model: str, registry_view: RegistryModel) -> list[str]:
        return [*dict.fromkeys([*registry_view.aliases, *(alias for name, alias in self._shares if name == model)])]

    def _meant(self, model: str, ref: str, registry_view: RegistryModel) -> TrafficSplit:
        """What a reference should be answered by: the spec's shares, an alias's version, or the newest."""
        ref = self._named.get(model, LATEST) if ref == BARE else ref
        if shares := self._shares.get((model, ref)):
            return tuple(shares.items())
        if ref == LATEST:
            return ((registry_view.versions[-1], 1.0),)
        version = ref if is_version(ref) else registry_view.aliases.get(ref)
        return ((version, 1.0),) if version else ()

    def _turned(self, name: Name, wanted: TrafficSplit) -> bool:
        """Take note of what a route should be; whether something must be opened for it."""
        old = self._routes.get(name)
        if old is None or (not old.warm and old.wanted != wanted):
            self._routes[name] = ModelRoute(answering=wanted, wanted=wanted)
            if len(wanted) == 1 or name in self._moving:
                return False
            # Shares are opened before anybody asks: one that does not open would fail its share of the requests.
            self._moving.add(name)
            return True
        if old.wanted != wanted:
            self._routes[name] = old = replace(old, wanted=wanted, trouble="", tried=0.0)
        late = time.monotonic() - old.tried > _AGAIN_S
        if old.answering == wanted or name in self._moving or (old.trouble and not late):
            return False
        self._moving.add(name)
        return True

    def _move(self, name: Name) -> None:
        route = self._routes.get(name)
        trouble = ""
        try:
            opened, errors = self._opened(name[0], route.wanted if route else ())
            trouble = _told(errors)
            with self._lock:
                now = self._routes.get(name)
                if route is None or now is None or now.wanted != route.wanted:
                    return  # moved on meanwhile: the next look begins anew
                done = opened if opened and (not trouble or len(route.wanted) > 1) else now.answering
                self._routes[name] = replace(now, answering=done, trouble=trouble, tried=time.monotonic())
        finally:
            with self._lock:
                self._moving.discard(name)
        if trouble:
            _log.warning("%s does not move: %s", "@".join(filter(None, name)), trouble)

    def _opened(self, model: str, wanted: TrafficSplit) -> tuple[TrafficSplit, dict[str, Exception]]:
        """Those shares whose version opens, made whole again, and by version what is wrong with the others."""
        good, errors = [], {}
        for version, share in wanted:
            try:
                self._open(model, version)
                good.append((version, share))
            except Exception as error:
                errors[version] = error
        whole = sum(share for _, share in good)
        return tuple((version, share / whole) for version, share in good), errors

    def _known(self, model: str) -> None:
        """NotFound, which names those that are, for a model that does not exist."""
        try:
            self.find(model, BARE, self._there)
        except NotFound:
            if model not in self._views:  # else it is a reference that does not exist
                raise

    def _warmed(self, model: str, ref: str) -> Exception | None:
        """Open what a named model answers by; what is wrong with it when nothing of it opens."""
        try:
            self.find(model, ref, self._there)
        except NotFound as error:
            return error
        route = self._routes[model, ref]
        opened, errors = self._opened(model, route.wanted)
        trouble = _told(errors)
        with self._lock:
            answering = opened or route.answering
            self._routes[model, ref] = replace(
                route, answering=answering, warm=bool(opened), trouble=trouble, tried=time.monotonic()
            )
        if trouble:
            _log.warning("%s", trouble)
        return None if opened else next(iter(errors.values()))

    def _drawn(self, shares: TrafficSplit) -> str:
        if len(shares) == 1:
            return shares[0][0]
        return self._draw.choices([version for version, _ in shares], [share for _, share in shares])[0]


def _told(errors: Mapping[str, Exception]) -> str:
    told = [(version, str(error)) for version, error in errors.items()]
    return "; ".join(text if version in text else f"{version}: {text}" for version, text in told)
