"""The endpoint as an ASGI application: models, keys, a page to try models on, and the OpenAPI document."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from regraft.contracts import Answer, columns_of
from regraft.endpoint.api_keys import ApiKey, ApiKeys
from regraft.endpoint.backend import Backend
from regraft.endpoint.body_reader import BodyBudget, ClientDisconnected, read_body
from regraft.endpoint.content_coding import coding_of, unpack
from regraft.endpoint.error_guard import ENDING, ErrorGuard
from regraft.endpoint.fair_shares import FairShares
from regraft.endpoint.http_errors import HttpError, busy, error_response, http_error_of
from regraft.endpoint.inference_api import form_for
from regraft.endpoint.metrics import Metrics, NoMetrics
from regraft.endpoint.model_info import describe_model, list_models
from regraft.endpoint.open_versions import OpenVersion, OpenVersions, RequestState
from regraft.endpoint.openapi import document
from regraft.endpoint.origins import OriginGuard
from regraft.endpoint.pages import DOCS, PAGE, Page
from regraft.endpoint.picture_turns import PictureTurns
from regraft.endpoint.request_body import ParsedRequest, most_bytes, parse_request
from regraft.endpoint.routes import BARE, ModelRoutes
from regraft.errors import NotFound, RegraftError, RequestError, StoreError
from regraft.serving.engine.engine import RowRequest
from regraft.serving.row_checks import prediction_columns
from regraft.spec.serve import ServeSpec
from regraft.store.names import parse

Handler = Callable[[Request], Awaitable[Response]]
_SMALL = 1 << 14
"""Larger bodies are parsed in a thread: in the event loop they would delay all other requests."""
_PIECE, _PIECES = 1 << 16, 1 << 11
"""Bytes of a piece of a body, and pieces of all bodies that wait or are being answered: 128 MiB."""
_DESCRIBERS = 2
_MAX_DESCRIBING = 64
"""Requests for documents about models that are accepted at once."""
READERS = 8
"""Bodies that may be arriving, for each request that may be answered at once: slow senders take up little."""
_MAX_OPENING = 1024
"""Requests that may wait at once for versions that are being loaded."""
_UNAUTHENTICATED = {401, 403}
_OPENAI = re.compile(r"(?:/models/[^/]+)?/v1(?:/.*)?")

_log = logging.getLogger(__name__)


class Endpoint:
    """The handlers and their shared state; a server runs `application`."""

    def __init__(
        self,
        spec: ServeSpec,
        routes: ModelRoutes,
        backend: Backend,
        keys: ApiKeys,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        self._spec, self._routes, self._backend, self._keys = spec, routes, backend, keys
        self._metrics = metrics or NoMetrics()
        self._shares = FairShares(spec.limits.queue)
        self._pieces = FairShares(max(_PIECES, 2 * spec.limits.queue))
        self._pictures = PictureTurns()
        self._body_budget = BodyBudget(READERS * spec.limits.queue)
        self._versions = OpenVersions(routes, backend)
        # Separate threads: describing many models takes long, and must not delay the parsing of large bodies.
        self._describers = ThreadPoolExecutor(_DESCRIBERS, thread_name_prefix="regraft-tell")
        self._opening_budget = BodyBudget(_MAX_OPENING)
        self._describe_budget = BodyBudget(_MAX_DESCRIBING)
        self.ready = False

    def application(self, lifespan: Callable[[Starlette], Any] | None = None) -> Starlette:
        """Return the ASGI application."""
        gets: dict[str, Handler] = {
            "/": self._page,
            "/docs": self._docs,
            "/openapi.json": self._openapi,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/models": self._list,
        }
        routes = [Route(path, handler, methods=["GET"]) for path, handler in gets.items()]
        routes.append(Route("/models/{reference}", self._model, methods=["GET", "POST"]))
        handlers = {HTTPException: _router_error, HttpError: _error, RegraftError: _error, Exception: _error}
        return Starlette(
            routes=routes,
            middleware=[Middleware(OriginGuard, allowed=self._spec.allow_origins), Middleware(ErrorGuard)],
            exception_handlers=handlers,
            lifespan=lifespan or _no_lifespan,
        )

    async def _model(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._ask(request)
        key = self._key(request)
        name, ref = self._named(request, key)
        return await self._described(
            lambda: describe_model(self._routes, self._backend, name, ref, key=key), self._sender(request, key)
        )

    async def _list(self, request: Request) -> Response:
        key = self._key(request)
        return await self._described(lambda: list_models(self._routes, key), self._sender(request, key))

    async def _openapi(self, request: Request) -> Response:
        """Return the OpenAPI document; without a key it contains the tasks but no model."""
        try:
            key: ApiKey | None = self._key(request)
        except HttpError:
            key = None
        return await self._described(
            lambda: document(self._routes, self._backend, key, self._spec), self._sender(request, key)
        )

    async def _described(self, describe: Callable[[], Any], sender: str) -> Response:
        """Return a document that is made in a thread; few are made at once."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as deadline:
                with self._describe_budget.one(sender, deadline):
                    return await loop.run_in_executor(self._describers, lambda: JSONResponse(describe()))
        except TimeoutError:
            message = "too many requests for documents about models at once: try again"
            raise busy(message, kind="Overloaded") from None

    async def _page(self, request: Request) -> Response:
        return _html(PAGE)

    async def _docs(self, request: Request) -> Response:
        return _html(DOCS)

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        if not self.ready:
            raise busy("models are being loaded", kind="NotReady")
        report: dict[str, Any] = {"status": "ready", "models": len(self._routes.models())}
        if self._routes.trouble:  # the reason is in the log: it may name hosts and folders
            report["store"] = "it cannot be read now: the models that were known go on answering"
        if changed := self._backend.changed_bases():
            report["changed_bases"] = list(changed)
        if trouble := self._keys.trouble():
            report["trouble"] = {"keys": trouble}
        return JSONResponse(report)

    async def _ask(self, request: Request) -> Response:
        """Answer a request or return its error, and count it."""
        started = time.perf_counter()
        state = RequestState()
        status = 499
        try:
            response = await self._respond(request, state)
            status = response.status_code
        except ClientDisconnected:
            response = Response(status_code=499)  # the client does not read it
        except ENDING:
            raise
        except BaseException as error:  # a panic of an extension in Rust is no Exception
            http_error = _logged(error, state)
            status = http_error.status
            response = error_response(http_error)
            response.headers.update(state.headers)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.answered(state.model, state.version, status, seconds=seconds, rows=state.rows)
        return self._with_capacity(response)

    def _with_capacity(self, response: Response) -> Response:
        """Add the number of further requests that would be accepted, so that a proxy can refuse requests itself.

        Not for unauthenticated requests: a stranger could keep the proxy believing that replicas are full.
        """
        if response.status_code not in _UNAUTHENTICATED:
            response.headers["x-regraft-room"] = str(max(0, self._spec.limits.queue - self._shares.taken))
        return response

    async def _respond(self, request: Request, state: RequestState) -> Response:
        limits = self._spec.limits
        key = self._key(request)
        sender = self._sender(request, key)
        if not self._shares.admits(sender):
            raise self._overloaded()
        name, ref = self._named(request, key)
        opened = await self._open(name, ref, key, state, sender=sender)
        most, length = most_bytes(opened.task, limits), request.headers.get("content-length")
        coding = coding_of(",".join(request.headers.getlist("content-encoding")))
        place = partial(self._body_budget.one, sender)
        body = await read_body(request.receive, length, most, limits.body_seconds, place=place)
        if coding:
            body = await unpack(body, coding, most, budget=self._body_budget)
        with self._counted(sender, len(body)):
            parsed = await self._parse(body, request.headers.get("content-type", ""), opened)
            answers = await self._answers(parsed, state)
        self._routes.relied_on(name, ref)
        form = form_for(parsed.form, answers[0]) if answers else parsed.form
        reply = form.reply(answers, parsed.parameters, single=parsed.single, counts=parsed.counts)
        return Response(_json(reply), media_type="application/json", headers=state.headers)

    async def _open(self, name: str, ref: str, key: ApiKey, state: RequestState, *, sender: str) -> OpenVersion:
        """Return the version that answers, loaded if necessary."""
        if not self._versions.at_hand(name, ref, state):
            seconds = self._spec.limits.seconds
            try:
                async with asyncio.timeout(seconds) as deadline:
                    with self._opening_budget.one(sender, deadline):
                        await self._versions.find(name, ref, key, state)
            except TimeoutError:
                raise busy(f"{name} could not be loaded within {seconds:g} seconds", kind="TookTooLong") from None
        assert state.opened is not None
        return state.opened

    async def _parse(self, body: bytes, content_type: str, opened: OpenVersion) -> ParsedRequest:
        task = opened.task
        parse = partial(parse_request, body, content_type, task, self._spec.limits, names=opened.names)
        files = any(column.by_reference for column in columns_of(prediction_columns(task)).values())
        if files or len(body) > _SMALL:  # a small picture may take long to decode
            return await asyncio.to_thread(parse)
        return parse()

    async def _answers(self, parsed: ParsedRequest, state: RequestState) -> list[Answer]:
        limits = self._spec.limits
        state.rows = len(parsed.rows)
        requests = [RowRequest(state.model, state.version, row) for row in parsed.rows]
        try:
            async with asyncio.timeout(limits.seconds), self._pictures.decoded(parsed):
                return await self._backend.answer(requests, limits.tokens, parsed.decoded) if requests else []
        except TimeoutError:
            raise busy(f"no answer within {limits.seconds:g} seconds", kind="TookTooLong") from None

    @contextlib.contextmanager
    def _counted(self, sender: str, size: int) -> Iterator[None]:
        """Count a request and its bytes as being answered. Requests whose bodies still arrive are not counted."""
        if not self._shares.admits(sender):
            raise self._overloaded()
        pieces = -(-max(size, 1) // _PIECE)
        if not self._pieces.admits(sender, pieces):
            held = f"{self._pieces.taken * _PIECE / 1e6:.0f} MB of requests"
            raise busy(f"{held} are waiting or being answered already: try again, or send less", kind="Overloaded")
        self._shares.take(sender)
        self._pieces.take(sender, pieces)
        self._metrics.held(self._shares.taken)
        try:
            yield
        finally:
            self._shares.give(sender)
            self._pieces.give(sender, pieces)
            self._metrics.held(self._shares.taken)

    def _overloaded(self) -> HttpError:
        taken = self._shares.taken
        beside = "" if taken >= self._spec.limits.queue else " (this sender's share, beside others)"
        return busy(f"{taken} requests are waiting or being answered already{beside}: try again", kind="Overloaded")

    def _sender(self, request: Request, key: ApiKey | None) -> str:
        """Return whose share of places a request takes: a key's, or an address's where there are no keys."""
        if key is not None and self._keys.required:
            return key.sha256
        return request.client.host if request.client else ""

    def _named(self, request: Request, key: ApiKey) -> tuple[str, str]:
        """Return the model and reference of the path. Raises HttpError 403 when the key does not allow the model."""
        written = request.path_params["reference"]
        try:
            name, ref = parse(written)
        except RequestError as error:
            raise HttpError(404, NotFound.__name__, error.message) from None
        if not key.may(name):
            raise HttpError(403, "NotYours", f"this key is not for {name}")
        return name, (ref if "@" in written else BARE)

    def _key(self, request: Request) -> ApiKey:
        """Return the request's key. Raises HttpError 401 or 403.

        Where no key is required, the Host header must name this machine. Otherwise a foreign page could point its own
        name here (DNS rebinding), and read answers in a visitor's browser.
        """
        if not self._keys.required and not self._spec.open_to_all and not _is_local(request.headers.get("host", "")):
            message = "without keys only this machine is answered, as localhost or 127.0.0.1: `regraft key` makes keys"
            raise HttpError(403, "StrangeHost", message)
        return self._keys.check(request.headers.get("authorization"))


@contextlib.asynccontextmanager
async def _no_lifespan(_: Starlette) -> AsyncIterator[None]:
    yield


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return name in ("localhost", "[::1]") or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _html(page: Page) -> Response:
    return Response(page.text, media_type="text/html", headers=page.headers)


def _logged(error: BaseException, state: RequestState) -> HttpError:
    """Convert an error, and log it if it is unexpected."""
    http_error = http_error_of(error, state.model)
    if http_error.status == 500:
        _log.error("%s@%s could not answer", state.model, state.version, exc_info=error)
    elif isinstance(error, StoreError):
        _log.warning("%s could not be answered: %s", state.model or "a request", error)
    return http_error


async def _error(_: Request, error: Exception) -> Response:
    return error_response(_logged(error, RequestState()))


async def _router_error(request: Request, error: Exception) -> Response:
    """Return the error of a request with an unknown path or method."""
    assert isinstance(error, HTTPException)
    messages = {
        404: _nothing_at(request.url.path[:200]),
        405: f"{request.method} is not answered here: POST asks a model, GET describes it",
    }
    http_error = HttpError(error.status_code, "NotFound", messages.get(error.status_code, str(error.detail)))
    return JSONResponse(http_error.document(), error.status_code, dict(error.headers or {}))


def _nothing_at(path: str) -> str:
    """Return the message for a path that does not exist; it names the way for those that other servers have."""
    if path == "/metrics":
        return (
            "there are no metrics at this address: an endpoint on Ray exports them with Ray's own (regraft_*), on the "
            "metrics port of each node; without Ray (--replicas 0) there are none"
        )
    if _OPENAI.fullmatch(path):
        return (
            'the routes of OpenAI\'s API (/v1/...) are not served: send {"inputs": ...} to POST /models/NAME; a chat '
            "model takes a list of {role, content} as one input"
        )
    return f"there is nothing at {path}; there are /, /models, /models/NAME, /docs"
