"""The metrics of an endpoint; an implementation decides where they are exported."""

from __future__ import annotations

from typing import Protocol

from regraft.serving.engine.batcher import ComputedBatch


class Metrics(Protocol):
    """Receives every request and every computed batch."""

    def answered(self, model: str, version: str, status: int, *, seconds: float, rows: int) -> None:
        """Count a finished request; `version` is empty when none was found."""
        ...

    def held(self, count: int) -> None:
        """Record how many requests are waiting or being answered now."""
        ...

    def store_readable(self, readable: bool) -> None:
        """Record whether the registry can be read; called in the polling thread when that changes."""
        ...

    def computed(self, batch: ComputedBatch) -> None:
        """Count rows that were computed together; called in the computing thread."""
        ...


class NoMetrics:
    """Metrics that are exported nowhere."""

    def answered(self, model: str, version: str, status: int, *, seconds: float, rows: int) -> None:
        """Do nothing."""

    def held(self, count: int) -> None:
        """Do nothing."""

    def store_readable(self, readable: bool) -> None:
        """Do nothing."""

    def computed(self, batch: ComputedBatch) -> None:
        """Do nothing."""
