"""uvicorn's HTTP protocol within bounds: bytes and time of everything around a body, requests sent ahead, connections.

Nothing here knows a key: whoever reaches the port reaches this code.
"""

from __future__ import annotations

import asyncio
import functools
import json
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEADER_SECONDS = 10.0
"""How long a request's headers may take to arrive, so that slow clients cannot hold connections."""
HEAD_BYTES = 1 << 16
"""Bytes of a head. Trailers, sizes of chunks and their extensions together may have as many."""
HEADERS = 256
"""Headers of one request."""
FRAMING = 8
"""Bytes around each byte of a body that are not counted: clients may send chunks of one byte."""
AHEAD = 32
"""Requests that a connection may send before the first is answered."""
MAX_CONNECTIONS = 4096
LINGER_SECONDS = 1.0
"""Time for a client to read a refusal. It may still be sending, and a closed port would discard the response."""
LINGER_BYTES = 1 << 18
_MESSAGES = {
    400: "this is not a request of HTTP/1.1",
    431: f"the head, trailers or chunk extensions are too long: at most {HEAD_BYTES:,} bytes and {HEADERS} headers",
}


class BoundsExceeded(Exception):
    """More arrived around a body than is allowed."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, for which heads, trailers and chunk extensions never end by themselves."""

    def connection_made(self, transport: Any) -> None:
        """Begin a connection; the slowest one is dropped when there are too many."""
        super().connection_made(transport)
        self.begun = time.monotonic()
        self._around = self._body = self._headers = self._lingered = 0
        self._in_head, self._lingers = True, False
        self._timeout: asyncio.TimerHandle | None = self.loop.call_later(HEADER_SECONDS, self._hang_up)
        if len(self.connections) > most_connections():
            _drop_one([one for one in self.connections if isinstance(one, BoundedProtocol)])

    @property
    def address(self) -> str:
        """The sender's address."""
        return self.client[0] if self.client else ""

    @property
    def waits(self) -> bool:
        """Whether the client is what this connection waits for: to send the rest of a request, or to read."""
        if self.transport.is_closing():
            return False
        if self.cycle is None or self.cycle.response_complete or self._in_head:
            return True
        return self.cycle.more_body or self.flow.write_paused

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, and close the connection when it exceeds the bounds."""
        if self._lingers:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.transport.abort()
            return
        if self._timeout is None and (self.cycle is None or self.cycle.response_complete):
            self._restart_timeout()  # bytes between two requests must not keep a connection open
        self._around = max(0, self._around) + len(data)
        super().data_received(data)
        if self._around > HEAD_BYTES + FRAMING * self._body and not self.transport.is_closing() and not self._lingers:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= AHEAD:
            raise BoundsExceeded
        super().on_message_begin()
        self._body = self._headers = 0
        self._in_head = True
        self.begun = time.monotonic()
        self._restart_timeout()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the address."""
        if len(self.url) + len(url) > HEAD_BYTES:
            raise BoundsExceeded
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are counted and ignored, as no header of theirs may change a request."""
        self._headers += 1
        if self._headers > HEADERS or len(name) + len(value) > HEAD_BYTES:
            raise BoundsExceeded
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._stop_timeout()
        self._in_head = False
        super().on_headers_complete()
        cycle = self.cycle
        cycle.transport = cast(asyncio.Transport, _Lingering(self))
        cycle.send = functools.partial(_send_and_close, cycle, cycle.send)  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, which the application bounds."""
        self._around -= len(body)
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._around = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that the parser refused, or that exceed the bounds."""
        over = self._headers > HEADERS or self._around > HEAD_BYTES + FRAMING * self._body
        self._refuse(431 if over else 400)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._stop_timeout()
        super().connection_lost(exc)

    def linger(self) -> None:
        """Send no more, and discard what still arrives for a moment."""
        if self._lingers or self.transport.is_closing():
            return
        self._lingers = True
        self.pipeline.clear()
        self._stop_timeout()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self._hang_up)

    def drop(self) -> None:
        """Close this connection to make room for another."""
        self.transport.abort()

    def _refuse(self, status: int) -> None:
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_refusal(status))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.linger()

    def _restart_timeout(self) -> None:
        self._stop_timeout()
        self._timeout = self.loop.call_later(HEADER_SECONDS, self._hang_up)

    def _stop_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _hang_up(self) -> None:
        if self._lingers:
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.close()


class _Lingering:
    """The transport of one response: closing it lets the client read the response first."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol, self._transport = protocol, protocol.transport

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Return whether nothing can be sent any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection; at once if the whole request has arrived."""
        if self._protocol.cycle is not None and self._protocol.cycle.more_body:
            self._protocol.linger()
        else:
            self._transport.close()


async def _send_and_close(cycle: RequestResponseCycle, send: Callable[[Any], Any], message: Any) -> None:
    """Send a part of a response; the connection closes after it when the request's body has not arrived."""
    if message["type"] == "http.response.start" and cycle.more_body:
        cycle.keep_alive = False
    await send(message)


def most_connections() -> int:
    """Return how many connections are held at once: half of the files that this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(MAX_CONNECTIONS, soft // 2))


def _drop_one(connections: list[BoundedProtocol]) -> None:
    """Drop the connection that has waited longest, of the address that holds most waiting ones."""
    waiting = [one for one in connections if one.waits]
    if waiting:
        most = Counter(one.address for one in waiting).most_common(1)[0][0]
        min((one for one in waiting if one.address == most), key=lambda one: one.begun).drop()


def _refusal(status: int) -> bytes:
    kind = {400: "BadRequest", 431: "TooLarge"}[status]
    phrase = {400: "Bad Request", 431: "Request Header Fields Too Large"}[status]
    body = json.dumps({"error": _MESSAGES[status], "kind": kind, "status": status}).encode()
    head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body
