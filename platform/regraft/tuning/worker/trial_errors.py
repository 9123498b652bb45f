"""What ends one trial and what ends a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from regraft.errors import Damaged, Diverged, RequestError, StoreError
from regraft.tuning.protocol import Desk, End, Report, Trial

log = logging.getLogger(__name__)


@contextmanager
def alone(trial: Trial, desk: Desk) -> Iterator[list[str]]:
    """What a trial raises inside ends that trial, and stands in the list in one line; what the store raises goes on."""
    failed: list[str] = []
    try:
        yield failed
    except Exception as error:
        if isinstance(error, StoreError) and not isinstance(error, Damaged):
            raise
        log.info("trial %s", trial.id, exc_info=True)
        failed.append(in_a_line(error))
        desk.ended(trial.id, End("failed", 0.0, error=failed[0]))


def in_a_line(error: BaseException) -> str:
    """An error for a trial's record."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, RequestError | Diverged) else f"{type(error).__name__}: {text}"


T = TypeVar("T")


class Broken(BaseException):
    """The desk raised `error`. No Exception: nothing that a trial's own errors end may take it for one of them."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Line:
    """A `Desk` whose every error is Broken."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def report(self, trial: str, report: Report) -> bool:
        """As the desk answers."""
        return _said(self._desk.report, trial, report)

    def room(self, trial: str, count: int) -> bool:
        """As the desk answers."""
        return _said(self._desk.room, trial, count)

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """As the desk takes it."""
        _said(self._desk.saved, trial, prefix, count, score)

    def ended(self, trial: str, end: End) -> None:
        """As the desk takes it."""
        _said(self._desk.ended, trial, end)

    def say(self, event: str, **fields: Any) -> None:
        """As the desk takes it."""
        _said(self._desk.say, event, **fields)


def _said(call: Callable[..., T], *args: Any, **fields: Any) -> T:
    try:
        return call(*args, **fields)
    except Exception as error:
        raise Broken(error) from error


@contextmanager
def connected(desk: Desk) -> Iterator[Line]:
    """The line to a desk; outside, the desk's own error is raised."""
    try:
        yield Line(desk)
    except Broken as broken:
        raise broken.error from None
