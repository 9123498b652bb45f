"""Origins of web pages: which of them may ask the endpoint, and the headers that let a page read an answer (CORS).

A browser sends the header Origin with every request of a page's script. Other clients send none, and are not affected.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.endpoint.http_errors import HttpError, error_response
from regraft.spec.serve import ANY_ORIGIN, NO_ORIGIN, PORTS, origin_as_sent

EXPOSED = "X-Model, X-Model-Version, X-Model-Delta, X-Model-Hash, Retry-After"
"""Headers of an answer that a page's script may read."""
USUAL_HEADERS = "Authorization, Content-Type, Content-Encoding"
MAX_AGE_S = 600
STRANGE = "StrangeOrigin"
"""The kind of the errors here."""
_EMBEDDED = (
    "a page of another site loads this address as a part of itself, which is refused: let a script of the page fetch "
    "it, and write the page's origin into allow_origins of the endpoint's spec"
)
_SHOWN = 300
"""Characters of an origin in a message; the longest name of a machine has 253."""
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_-]+(?:\s*,\s*[A-Za-z0-9_-]+)*")
_MOST_HEADER_NAMES = 1024


class OriginGuard:
    """ASGI middleware that refuses pages of other origins unless they are allowed, and answers OPTIONS."""

    def __init__(self, app: ASGIApp, *, allowed: Collection[str] = ()) -> None:
        self._app, self._allowed = app, frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        foreign = [] if _is_of_own_page(headers) else _foreign(headers)
        refused = [origin for origin in foreign if not self._allows(origin)]
        if not headers.get("origin") and _is_embedded(headers):
            await error_response(HttpError(403, STRANGE, _EMBEDDED))(scope, receive, send)
            return
        if refused:
            await error_response(_strange_origin(refused[0]))(scope, receive, send)
            return
        added = self._headers(foreign[0] if foreign else None)
        if scope["method"] == "OPTIONS":
            response = Response(status_code=204, headers={**_options(str(scope["path"]), headers, foreign), **added})
            await response(scope, receive, send)
            return
        await self._app(scope, receive, _adding(send, added) if added else send)

    def _allows(self, origin: str) -> bool:
        return ANY_ORIGIN in self._allowed or origin.lower() in self._allowed

    def _headers(self, origin: str | None) -> dict[str, str]:
        """Return the headers of every response; caches must not give one origin's answer to another."""
        vary = {"vary": "Origin"} if self._allowed else {}
        if origin is None:
            return vary
        return {**vary, "access-control-allow-origin": origin, "access-control-expose-headers": EXPOSED}


def is_own(origin: str, host: str) -> bool:
    """Return whether an origin is the endpoint itself, which the header Host names. Its scheme may be a proxy's."""
    scheme, _, place = origin.lower().partition("://")
    return scheme in PORTS and bool(host) and _with_port(place, scheme) == _with_port(host.lower(), scheme)


def _foreign(headers: Headers) -> list[str]:
    """Return the origins of a request that are not the endpoint's."""
    return [origin for origin in headers.getlist("origin") if not is_own(origin, headers.get("host", ""))]


def _is_of_own_page(headers: Headers) -> bool:
    """Return whether the browser says that the page was loaded from the address that it asks.

    No script can set this header. It holds behind a proxy that writes another Host than the page's.
    """
    return headers.getlist("sec-fetch-site") == ["same-origin"]


def _is_embedded(headers: Headers) -> bool:
    """Return whether a page of another site loads this as an image or a script, for which browsers send no origin."""
    site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
    return site in ("cross-site", "same-site") and mode != "navigate"


def _with_port(place: str, scheme: str) -> str:
    return place if place.rpartition(":")[0] and place.rpartition(":")[2].isdecimal() else f"{place}:{PORTS[scheme]}"


def _options(path: str, headers: Headers, foreign: list[str]) -> dict[str, str]:
    """Return the answer to OPTIONS: the methods of a path, and for a page of an allowed origin what it may send."""
    methods = "GET, HEAD, POST, OPTIONS" if path.startswith("/models/") else "GET, HEAD, OPTIONS"
    found = {"allow": methods}
    if not foreign:
        return found
    wanted = headers.get("access-control-request-headers", "")[:_MOST_HEADER_NAMES]
    found["access-control-allow-methods"] = methods
    found["access-control-allow-headers"] = wanted if _HEADER_NAMES.fullmatch(wanted) else USUAL_HEADERS
    found["access-control-max-age"] = str(MAX_AGE_S)
    if headers.get("access-control-request-private-network") == "true":
        found["access-control-allow-private-network"] = "true"
    return found


def _adding(send: Send, added: Mapping[str, str]) -> Send:
    """Return a `send` that adds headers to the response."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            headers: Any = MutableHeaders(scope=message)
            for name, value in added.items():
                headers[name] = value
        await send(message)

    return sending


def _strange_origin(origin: str) -> HttpError:
    shown = origin[:_SHOWN]
    page = "a page without an origin (a file, or a frame in a sandbox)" if shown == NO_ORIGIN else f"a page of {shown}"
    way = f"write allow_origins: ['{shown}'] in the endpoint's spec, or pass --allow-origin {shown}"
    if not _can_be_allowed(origin):
        way = (
            "let a web server give the page to browsers (`python -m http.server` does), and write that server's "
            "origin into allow_origins of the endpoint's spec, such as http://localhost:3000"
        )
    return HttpError(403, STRANGE, f"{page} asks, and pages of other origins are refused: {way}")


def _can_be_allowed(origin: str) -> bool:
    """Return whether an endpoint's spec takes this origin as one of those that are allowed."""
    try:
        return origin != ANY_ORIGIN and len(origin) <= _SHOWN and bool(origin_as_sent(origin))
    except ValueError:
        return False
