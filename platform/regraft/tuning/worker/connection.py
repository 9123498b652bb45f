"""The worker's connection to the coordinator: its errors end the worker, never a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from regraft.contracts import Event
from regraft.training.harness import Pulse
from regraft.tuning.protocol import Coordinator, End, Report

T = TypeVar("T")


class CoordinatorLost(BaseException):
    """The coordinator raised `error`.

    Derives from BaseException so that `except Exception` does not blame the trial.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Connection:
    """A `Coordinator` that wraps every error of another one in CoordinatorLost; each call is a sign of life."""

    def __init__(self, coordinator: Coordinator, pulse: Pulse) -> None:
        self._coordinator, self._pulse = coordinator, pulse

    def report(self, trial: str, report: Report) -> bool:
        """Forward an evaluation and return whether the trial continues."""
        return self._forward(self._coordinator.report, trial, report)

    def reserve(self, trial: str, count: int) -> bool:
        """Forward a request for checkpoint space and return the answer."""
        return self._forward(self._coordinator.reserve, trial, count)

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """Forward the commit of a checkpoint."""
        self._forward(self._coordinator.saved, trial, prefix, count, score)

    def ended(self, trial: str, end: End) -> None:
        """Forward the end of a trial."""
        self._forward(self._coordinator.ended, trial, end)

    def emit(self, event: Event) -> None:
        """Forward a progress event."""
        self._forward(self._coordinator.emit, event)

    def _forward(self, call: Callable[..., T], *args: Any) -> T:
        self._pulse.beat()
        try:
            return call(*args)
        except Exception as error:
            raise CoordinatorLost(error) from error


@contextmanager
def connected(coordinator: Coordinator, pulse: Pulse) -> Iterator[Connection]:
    """Open a connection to a coordinator; leaving the block re-raises the coordinator's original error."""
    try:
        yield Connection(coordinator, pulse)
    except CoordinatorLost as lost:
        raise lost.error from None
