"""The end of a process whose Ray is lost and whose main thread does not return: report the error, then leave at once.

The command line sets how an error is reported. This module imports no Ray, so that every command can do so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Never

from regraft.errors import RegraftError

Report = Callable[[RegraftError], object]


def _to_stderr(error: RegraftError) -> None:
    sys.stderr.write(f"error: {error}\n")


_report: Report = _to_stderr


@contextmanager
def reported_by(report: Report) -> Iterator[None]:
    """Report by this function for the block."""
    global _report
    before, _report = _report, report
    try:
        yield
    finally:
        _report = before


def leave(error: RegraftError) -> Never:
    """Report an error and end this process with its exit code, from any thread; nothing is waited for."""
    try:
        _report(error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(error.exit_code)
