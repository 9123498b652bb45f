"""Reading of request bodies within limits on size, time, and bytes of all requests together."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from regraft.endpoint.http_errors import HttpError, busy

MAX_BUFFERED = 512 << 20
"""Bytes of incomplete bodies, of all requests together."""
_HEAD_START = 4096
"""Bytes that a body is credited with when its speed is compared."""
_SOON_S = 0.1
Place = Callable[[asyncio.Timeout], AbstractContextManager[Callable[[int], None]]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientDisconnected(Exception):
    """The client closed the connection."""


@dataclass(eq=False)
class _Arriving:
    """A body that is arriving."""

    sender: str
    deadline: asyncio.Timeout | None
    began: float = field(default_factory=time.monotonic)
    bytes: int = 0

    def speed(self, now: float) -> float:
        """Return bytes by time; a body that has just begun counts as a fast one."""
        return (self.bytes + _HEAD_START) / (now - self.began + _SOON_S)


class BodyBudget:
    """Limits how many bodies arrive at once, and the bytes of them that are buffered.

    When there are too many, the slowest one of the sender with the most of them ends. So one sender cannot keep others
    out.
    """

    def __init__(self, most: int, most_bytes: int = MAX_BUFFERED) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._arriving: set[_Arriving] = set()
        self._bytes = 0

    def full(self) -> bool:
        """Return whether no other body may start unless a slow one ends."""
        return len(self._arriving) >= self._most or self._bytes >= self._most_bytes

    @contextmanager
    def one(self, sender: str = "", deadline: asyncio.Timeout | None = None) -> Iterator[Callable[[int], None]]:
        """Count an arriving body within the block; the function that it yields takes the size of each piece.

        With a `deadline`, the body may be ended for another one: it is rescheduled to now. The function raises
        HttpError 503 when all bodies together exceed the budget and none can be ended.
        """
        body = _Arriving(sender, deadline)
        if self.full() and not self._end_slowest():
            raise busy("too many bodies are arriving at once: try again", kind="Overloaded")
        self._arriving.add(body)

        def take(count: int) -> None:
            body.bytes += count
            self._bytes += count
            if self._bytes > self._most_bytes and (not self._end_slowest(body) or self._bytes > 2 * self._most_bytes):
                raise busy("too many bytes are arriving at once: try again", kind="Overloaded")

        try:
            yield take
        finally:
            self._arriving.discard(body)
            self._bytes -= body.bytes

    def _end_slowest(self, newcomer: _Arriving | None = None) -> bool:
        """End the slowest body of the sender that has the most; return whether there is one to end."""
        can_end = [body for body in self._arriving if _can_end(body) and body is not newcomer]
        if not can_end:
            return False
        share: Counter[str] = Counter()
        for body in can_end:
            share[body.sender] += body.bytes if newcomer else 1
        most, now = share.most_common(1)[0][0], time.monotonic()
        slowest = min((body for body in can_end if body.sender == most), key=lambda body: body.speed(now))
        assert slowest.deadline is not None
        slowest.deadline.reschedule(asyncio.get_running_loop().time())
        self._arriving.discard(slowest)
        return True


def _can_end(body: _Arriving) -> bool:
    return body.deadline is not None and not body.deadline.expired()


async def read_body(receive: Receive, content_length: str | None, most: int, seconds: float, *, place: Place) -> bytes:
    """Return the complete body; `place` is its sender's `BodyBudget.one`.

    Raises HttpError 413 as soon as it exceeds `most` bytes, HttpError 408 after `seconds`, and ClientDisconnected.
    """
    if content_length is not None and content_length.isdecimal() and int(content_length[:20]) > most:
        raise too_large(most)
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds) as deadline:
            with place(deadline) as take:
                return await _receive_all(receive, most, take)
    except TimeoutError:
        if time.monotonic() - began < seconds:
            raise HttpError(408, "TooSlow", "others needed the place of this body, which was the slowest") from None
        raise HttpError(408, "TooSlow", f"the body did not arrive within {seconds:g} seconds") from None


async def _receive_all(receive: Receive, most: int, take: Callable[[int], None]) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):  # nearly always: one piece
        only: bytes = message.get("body", b"")
        if len(only) > most:
            raise too_large(most)
        return only
    body = bytearray()  # not a list of pieces: each may be a single byte
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        piece = message.get("body", b"")
        body += piece
        take(len(piece))
        if len(body) > most:
            raise too_large(most)
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()


def too_large(most: int, what: str = "is larger") -> HttpError:
    """Return the error for a body of too many bytes."""
    return HttpError(413, "TooLarge", f"the body {what} than {most:,} bytes, which are allowed for this model")
