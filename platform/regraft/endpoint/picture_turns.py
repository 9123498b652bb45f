"""Turns of requests with large pictures: few megapixels are decoded and answered at once, whoever sends them.

A picture of 24 megapixels takes some 200 MB while it is decoded, resized and answered, so its request waits before any
pixel is made. Small pictures do not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from regraft.endpoint.http_errors import busy
from regraft.endpoint.request_body import ParsedRequest
from regraft.media.pixels.freed_memory import give_back_memory

SMALL = 1_000_000
"""Pixels of a request up to which it does not wait."""
LARGE = 13_000_000
"""Pixels of a request from which on it is answered after all others of that size, one after another."""
AT_ONCE = 26_000_000
"""Pixels of all other requests together that are decoded and answered at once."""
WAIT_S = 10.0
"""How long a request waits for its turn."""
_SMALL_DECODED = 2_000_000
"""Pixels up to which a doubtful picture is decoded beside a larger one."""


class PixelLane:
    """A number of pixels that requests take in the order in which they come."""

    def __init__(self, most: int, wait_s: float = WAIT_S) -> None:
        self._most, self._wait_s, self._taken = most, wait_s, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, pixels: int) -> AsyncIterator[None]:
        """Hold so many pixels within the block; more than there are count as all. Raises HttpError 503."""
        pixels = min(pixels, self._most)
        await self._take(pixels)
        try:
            yield
        finally:
            self._give(pixels)

    async def _take(self, pixels: int) -> None:
        if not self._waiting and self._taken + pixels <= self._most:
            self._taken += pixels
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, turn))
        done, _ = await self._first(turn, pixels)
        if not done:
            self._leave(turn, pixels)
            raise busy(
                f"pictures of {self._taken / 1e6:.0f} megapixels are being answered, and {self._most / 1e6:.0f} are at "
                "once: try again in a few seconds, or send smaller pictures",
                kind="Overloaded",
            )

    async def _first(self, turn: asyncio.Future[None], pixels: int) -> tuple[set[asyncio.Future[None]], object]:
        try:
            return await asyncio.wait({turn}, timeout=self._wait_s)
        except asyncio.CancelledError:
            self._leave(turn, pixels)
            raise

    def _leave(self, turn: asyncio.Future[None], pixels: int) -> None:
        """Take a request out of the queue; one whose turn has come meanwhile gives its pixels back."""
        if turn.done():
            self._give(pixels)
            return
        self._waiting.remove((pixels, turn))
        self._admit()

    def _give(self, pixels: int) -> None:
        self._taken -= pixels
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._taken + self._waiting[0][0] <= self._most:
            pixels, turn = self._waiting.popleft()
            self._taken += pixels
            turn.set_result(None)


class PictureTurns:
    """The turns of one endpoint."""

    def __init__(self) -> None:
        self._large, self._others = PixelLane(LARGE), PixelLane(AT_ONCE)
        # One thread each: what other processes decode is bounded by how many decode at once.
        self._decoders = {large: ThreadPoolExecutor(1, thread_name_prefix="regraft-apart") for large in (False, True)}

    @asynccontextmanager
    async def decoded(self, parsed: ParsedRequest) -> AsyncIterator[None]:
        """Wait until a request's pictures may be decoded, and decode the doubtful ones; held within the block."""
        pixels = parsed.pixels
        if pixels <= SMALL and not parsed.undecoded:
            yield
            return
        async with (self._large if pixels > LARGE else self._others).taken(pixels):
            loop, decoders = asyncio.get_running_loop(), self._decoders[pixels > _SMALL_DECODED]
            if pixels > LARGE:  # what earlier requests left goes back before the most is taken
                await loop.run_in_executor(decoders, give_back_memory)
            if parsed.undecoded:
                await loop.run_in_executor(decoders, parsed.decode)
            yield
