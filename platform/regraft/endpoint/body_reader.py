"""Reading of request bodies within limits on size, time, and bytes of all requests together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from regraft.endpoint.http_errors import HttpError, busy

MAX_BUFFERED = 512 << 20
"""Bytes of incomplete bodies, of all requests together."""
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientDisconnected(Exception):
    """The client closed the connection."""


class BodyBudget:
    """Limits how many bodies arrive at once, and the bytes of them that are buffered."""

    def __init__(self, most: int, most_bytes: int = MAX_BUFFERED) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._count = self._bytes = 0

    def full(self) -> bool:
        """Return whether no other body may start."""
        return self._count >= self._most or self._bytes >= self._most_bytes

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """Count an arriving body within the block; the function that it yields takes the size of each piece.

        The function raises HttpError 503 when all bodies together exceed the budget.
        """
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            taken += count
            self._bytes += count
            if self._bytes > self._most_bytes:
                raise busy("too many bytes are arriving at once: try again", kind="Overloaded")

        self._count += 1
        try:
            yield take
        finally:
            self._count -= 1
            self._bytes -= taken


async def read_body(
    receive: Receive, content_length: str | None, most: int, seconds: float, *, budget: BodyBudget
) -> bytes:
    """Return the complete body.

    Raises HttpError 413 as soon as it exceeds `most` bytes, HttpError 408 after `seconds`, and ClientDisconnected.
    """
    if content_length is not None and content_length.isdecimal() and int(content_length[:20]) > most:
        raise too_large(most)
    try:
        async with asyncio.timeout(seconds):
            with budget.one() as take:
                return await _receive_all(receive, most, take)
    except TimeoutError:
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
