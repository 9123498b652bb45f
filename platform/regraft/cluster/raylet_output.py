"""Standard output without the lines that Ray prints about its raylets: lost workers, and its own end."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


@contextmanager
def without_raylet_lines() -> Iterator[None]:
    """Drop the raylet's lines about lost workers from standard output, unless regraft logs at DEBUG.

    regraft reports lost workers itself.
    """
    if logging.getLogger("regraft").isEnabledFor(logging.DEBUG):
        yield
        return
    with redirect_stdout(RayletFilter(sys.stdout)):
        yield


class RayletFilter(io.TextIOBase):
    """A stream without the lines that Ray prints when it replaces a worker, which no option of Ray turns off."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._dropped = stream, False

    def write(self, text: str) -> int:
        """Pass text on; Ray writes a line of the raylet as its text and then its end."""
        end, self._dropped = self._dropped and text == "\n", "(raylet)" in text
        return len(text) if end or self._dropped else self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()
