"""What Ray prints of nodes and workers that it lost, kept off the screen: regraft tells it in its own words."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


@contextmanager
def without_raylet_lines() -> Iterator[None]:
    """Keep them off standard output, unless regraft logs at DEBUG."""
    if logging.getLogger("regraft").isEnabledFor(logging.DEBUG):
        yield
        return
    with redirect_stdout(WithoutRaylet(sys.stdout)):
        yield


class WithoutRaylet(io.TextIOBase):
    """Standard output but for the lines in which Ray tells that it replaces a worker, which no option of it stops."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._dropped = stream, False

    def write(self, text: str) -> int:
        """Pass text on; a line of the raylet comes as its text and then its end."""
        end, self._dropped = self._dropped and text == "\n", "(raylet)" in text
        return len(text) if end or self._dropped else self._stream.write(text)

    def flush(self) -> None:
        """Of the stream itself."""
        self._stream.flush()

    def isatty(self) -> bool:
        """As the stream itself."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream itself."""
        return self._stream.fileno()
