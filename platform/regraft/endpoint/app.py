"""The endpoint as an ASGI application: models, who may ask them, a page, and what all of it is documented as."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from regraft.contracts import Answer, Task
from regraft.endpoint.api_keys import ApiKey, ApiKeys
from regraft.endpoint.backend import Backend
from regraft.endpoint.http_errors import HttpError, busy, http_error_of
from regraft.endpoint.inference_api import form_for
from regraft.endpoint.metrics import Metrics, NoMetrics
from regraft.endpoint.model_info import listing, shown
from regraft.endpoint.openapi import document
from regraft.endpoint.pages import DOCS, PAGE, Page
from regraft.endpoint.request_body import (
    BodyBudget,
    ClientDisconnected,
    ParsedRequest,
    body_of,
    most_bytes,
    parse_request,
)
from regraft.endpoint.routes import BARE, ModelRoutes
from regraft.errors import NotFound, RegraftError, RequestError
from regraft.serving.engine.engine import RowRequest, ServedVersion
from regraft.spec.serve import ServeSpec
from regraft.store.names import parse

Handler = Callable[[Request], Awaitable[Response]]
_SMALL = 1 << 14
"""A body of more bytes is read in a thread: parsing it would hold up everybody else."""
_OPENERS = 4
_TELLERS = 2
_MOST_TOLD = 64
"""Who asks about models, not of them: so many at once."""
READERS = 8
"""Bodies that may be on their way, for each request that may be answered at once: who sends slowly takes up little."""
_MOST_KNOWN = 4096
_STRANGERS = {401, 403}
_CLOSING = {408, 413}
"""After these the rest of a body may still be on its way: the connection ends."""

_log = logging.getLogger(__name__)


_Version = tuple[str, str, str]
"""A model, a version, and what tells it from another one of that name."""


@dataclass(frozen=True, slots=True)
class _OpenVersion:
    """What is remembered of a version, and holds no weights: the engine must be able to let go of them."""

    task: Task
    headers: Mapping[str, str]
    """Which version answers, by its number and by what it is made of."""

    @classmethod
    def of(cls, served: ServedVersion) -> Self:
        headers = {
            "x-model": served.model,
            "x-model-version": served.version,
            "x-model-delta": served.delta_sha256,
            "x-model-hash": served.hash,
        }
        return cls(served.task, headers)


@dataclass(slots=True)
class _RequestState:
    """What is known of a request so far; its answer or refusal tells of it."""

    model: str = ""
    version: str = ""
    known: _OpenVersion | None = None
    rows: int = 0

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the version that answers, once it is known."""
        return self.known.headers if self.known else {}


class Endpoint:
    """Handlers and what they share; `application` is what a server runs."""

    def __init__(
        self, spec: ServeSpec, routes: ModelRoutes, backend: Backend, keys: ApiKeys, metrics: Metrics | None = None
    ) -> None:
        self._spec, self._routes, self._backend, self._keys = spec, routes, backend, keys
        self._metrics = metrics or NoMetrics()
        self._holds = 0
        self._room = BodyBudget(READERS * spec.limits.queue)
        self._known: dict[_Version, _OpenVersion] = {}
        self._opening: dict[_Version, asyncio.Future[_OpenVersion]] = {}
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="regraft-open")
        # Threads of their own: telling of many models takes long, and reading large bodies must not wait for it.
        self._describers = ThreadPoolExecutor(_TELLERS, thread_name_prefix="regraft-tell")
        self._describing = BodyBudget(_MOST_TOLD)
        # One thread: however many ask for what is not there, they hold up nobody else.
        self._finder = ThreadPoolExecutor(1, thread_name_prefix="regraft-find")
        self.ready = False

    def application(self, lifespan: Callable[[Starlette], Any] | None = None) -> Starlette:
        """The ASGI application."""
        gets: dict[str, Handler] = {
            "/": self._page,
            "/docs": self._docs,
            "/openapi.json": self._openapi,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/models": self._models,
        }
        routes = [Route(path, handler, methods=["GET"]) for path, handler in gets.items()]
        routes.append(Route("/models/{reference}", self._model, methods=["GET", "POST"]))
        handlers = {HTTPException: _http_error, HttpError: _refused, RegraftError: _refused, Exception: _unforeseen}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan or _nothing)

    async def _model(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._ask(request)
        key = self._key(request)
        name, ref = self._named(request, key)
        return await self._told(lambda: shown(self._routes, self._backend, name, ref, key))

    async def _models(self, request: Request) -> Response:
        key = self._key(request)
        return await self._told(lambda: listing(self._routes, key))

    async def _openapi(self, request: Request) -> Response:
        """Whoever brings no key sees every task's form, and no model."""
        try:
            key: ApiKey | None = self._key(request)
        except HttpError:
            key = None
        return await self._told(lambda: document(self._routes, self._backend, key, self._spec))

    async def _told(self, tell: Callable[[], Any]) -> Response:
        """A document made in a thread, for few at once."""
        if self._describing.full():
            raise busy("too many ask about models at once: come again", kind="Overloaded")
        with self._describing.one():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._describers, lambda: JSONResponse(tell()))

    async def _page(self, request: Request) -> Response:
        return _html(PAGE)

    async def _docs(self, request: Request) -> Response:
        return _html(DOCS)

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        if not self.ready:
            raise busy("models are being opened", kind="NotReady")
        return JSONResponse({"status": "ready", "models": len(self._routes.models())})

    async def _ask(self, request: Request) -> Response:
        """Answer one request, or say why not, and count it."""
        began = time.perf_counter()
        seen = _RequestState()
        if self._holds >= self._spec.limits.queue or self._room.full():
            self._metrics.answered("", "", 503, 0.0, 0)
            return self._with_room(_answer(self._full()))
        status = 499
        try:
            response = await self._answered(request, seen)
            status = response.status_code
        except ClientDisconnected:
            response = Response(status_code=499)  # nobody reads it
        except Exception as error:
            http_error = _logged(error, seen)
            status = http_error.status
            response = _answer(http_error)
            response.headers.update(seen.headers)
        finally:
            self._metrics.answered(seen.model, seen.version, status, time.perf_counter() - began, seen.rows)
        return self._with_room(response)

    def _with_room(self, response: Response) -> Response:
        """Tell how many requests more would be held: what stands before replicas then refuses in their place.

        Not whom no key lets in: they could keep up the word that there is no room.
        """
        if response.status_code not in _STRANGERS:
            response.headers["x-regraft-room"] = str(max(0, self._spec.limits.queue - self._holds))
        return response

    async def _answered(self, request: Request, seen: _RequestState) -> Response:
        limits = self._spec.limits
        key = self._key(request)
        name, ref = self._named(request, key)
        if not self._at_hand(name, ref, seen):
            try:
                async with asyncio.timeout(limits.seconds):
                    await self._found(name, ref, key, seen)
            except TimeoutError:
                told = f"{name} could not be opened within {limits.seconds:g} seconds"
                raise busy(told, kind="TookTooLong") from None
        assert seen.known is not None
        task, headers = seen.known.task, request.headers
        most = most_bytes(task, limits)
        body = await body_of(request.receive, headers.get("content-length"), most, limits.body_seconds, self._room)
        with self._held():
            answers, question = await self._asked(body, headers.get("content-type", ""), task, name, seen)
        self._routes.relied_on(name, ref)
        form = form_for(question.form, answers[0]) if answers else question.form
        reply = form.reply(answers, question.parameters, single=question.single)
        return Response(_json(reply), media_type="application/json", headers=seen.headers)

    async def _asked(
        self, body: bytes, kind: str, task: Task, name: str, seen: _RequestState
    ) -> tuple[list[Answer], ParsedRequest]:
        """What a body asks, answered."""
        limits = self._spec.limits
        if len(body) > _SMALL:
            question = await asyncio.to_thread(lambda: parse_request(body, kind, task, limits))
        else:
            question = parse_request(body, kind, task, limits)
        seen.rows = len(question.rows)
        asks = [RowRequest(name, seen.version, row) for row in question.rows]
        try:
            async with asyncio.timeout(limits.seconds):
                answers = await self._backend.answer(asks, limits.tokens) if asks else []
        except TimeoutError:
            raise busy(f"no answer within {limits.seconds:g} seconds", kind="TookTooLong") from None
        return answers, question

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """One of the requests that are answered at once. Those whose body is still on its way hold no place."""
        if self._holds >= self._spec.limits.queue:
            raise self._full()
        self._holds += 1
        self._metrics.held(self._holds)
        try:
            yield
        finally:
            self._holds -= 1
            self._metrics.held(self._holds)

    def _full(self) -> HttpError:
        return busy(f"{self._holds} requests are waiting or being answered already: come again", kind="Overloaded")

    def _at_hand(self, name: str, ref: str, seen: _RequestState) -> bool:
        """Whether the version that answers is known and loaded, as it nearly always is."""
        seen.model, seen.version = name, self._routes.at_hand(name, ref) or ""
        if seen.version and self._backend.holds(name, seen.version):
            seen.known = self._known.get((name, seen.version, self._routes.stamp(name, seen.version)))
        return seen.known is not None

    async def _found(self, name: str, ref: str, key: ApiKey, seen: _RequestState) -> None:
        """The version that answers, looked for and opened."""
        version = seen.version
        if not version:
            others = [model for model in self._routes.models() if key.may(model)]
            since, loop = time.monotonic(), asyncio.get_running_loop()
            with self._room.one():
                version = await loop.run_in_executor(self._finder, self._routes.find, name, ref, others, since)
        seen.version = version
        wanted = name, version, self._routes.stamp(name, version)
        with self._room.one():
            # One that gives up must not take the others' answer away.
            seen.known = await asyncio.shield(self._opened(wanted))

    def _opened(self, wanted: _Version) -> asyncio.Future[_OpenVersion]:
        """The version, being opened: in one thread, however many wait for it, so that others are opened meanwhile."""
        opening = self._opening.get(wanted)
        if opening is None:
            opening = self._opening[wanted] = asyncio.ensure_future(self._open(wanted))
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps all have given up
        return opening

    async def _open(self, wanted: _Version) -> _OpenVersion:
        name, version, _ = wanted
        try:
            loop = asyncio.get_running_loop()
            known = _OpenVersion.of(await loop.run_in_executor(self._openers, self._backend.open, name, version))
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[wanted] = known
            return known
        finally:
            del self._opening[wanted]

    def _named(self, request: Request, key: ApiKey) -> tuple[str, str]:
        """The model and reference of the path, when the key is for it."""
        written = request.path_params["reference"]
        try:
            name, ref = parse(written)
        except RequestError as error:
            raise HttpError(404, NotFound.__name__, error.message) from None
        if not key.may(name):
            raise HttpError(403, "NotYours", f"this key is not for {name}")
        return name, (ref if "@" in written else BARE)

    def _key(self, request: Request) -> ApiKey:
        """Whose request it is. Where nobody is asked for a key, only who names this machine may come in: a page of
        somebody else's could let its own name point here, and read in a visitor's browser what this one answers."""
        if not self._keys.asked and not self._spec.open_to_all and not _is_here(request.headers.get("host", "")):
            told = "without keys only this machine is answered, as localhost or 127.0.0.1: `regraft key` makes keys"
            raise HttpError(403, "StrangeHost", told)
        return self._keys.check(request.headers.get("authorization"))


@contextlib.asynccontextmanager
async def _nothing(_: Starlette) -> AsyncIterator[None]:
    yield


def _is_here(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return name in ("localhost", "[::1]") or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _html(page: Page) -> Response:
    return Response(page.text, media_type="text/html", headers=page.headers)


def _answer(http_error: HttpError) -> Response:
    headers = http_error.headers()
    if http_error.status in _CLOSING:
        headers["connection"] = "close"
    return JSONResponse(http_error.document(), http_error.status, headers)


def _logged(error: Exception, seen: _RequestState) -> HttpError:
    http_error = http_error_of(error, seen.model)
    if http_error.status == 500:
        _log.error("%s@%s could not answer", seen.model, seen.version, exc_info=error)
    return http_error


async def _refused(_: Request, error: Exception) -> Response:
    return _answer(_logged(error, _RequestState()))


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    told = {
        404: f"there is nothing at {request.url.path[:200]}; there are /, /models, /models/NAME, /docs",
        405: f"{request.method} is not answered here: POST asks a model, GET tells of it",
    }
    http_error = HttpError(error.status_code, "NotFound", told.get(error.status_code, str(error.detail)))
    return JSONResponse(http_error.document(), error.status_code, dict(error.headers or {}))


async def _unforeseen(_: Request, error: Exception) -> Response:
    return _answer(_logged(error, _RequestState()))
