"""What Ray prints of nodes and workers that it lost, kept off the screen: regraft tells it in its own words."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

import ray
from ray.data import DataContext


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


LEVEL = "RAY_BACKEND_LOG_LEVEL"


@contextmanager
def silently() -> Iterator[None]:
    """Start Ray so that its core keeps to itself, unless regraft logs at DEBUG.

    It would warn of every pool of Ray Data that its actors could not be made again were their arguments lost, which
    happens only when this process is lost too. The level is read when Ray starts, and told on standard error then.
    """
    if ray.is_initialized() or logging.getLogger("regraft").isEnabledFor(logging.DEBUG):
        yield
        return
    before = os.environ.get(LEVEL)
    os.environ.setdefault(LEVEL, "fatal")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        if before is None:
            os.environ.pop(LEVEL, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray Data's progress bars and reports off the screen, unless regraft logs at DEBUG."""
    if logging.getLogger("regraft").isEnabledFor(logging.DEBUG):
        yield
        return
    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    names = ("enable_progress_bars", "print_on_execution_start", "raise_original_map_exception")
    before, level = {name: getattr(context, name) for name in names}, logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True  # ours, as it was raised, and not a word about it
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(WithoutRaylet(sys.stdout)):
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)
