"""What is counted while an endpoint answers; where the numbers go is another floor's business."""

from __future__ import annotations

from typing import Protocol

from regraft.serving.engine.batcher import ComputedBatch


class Metrics(Protocol):
    """Told of every request."""

    def answered(self, model: str, version: str, status: int, seconds: float, rows: int) -> None:
        """A request ended; `version` is empty where none was found."""
        ...

    def held(self, count: int) -> None:
        """How many requests are waiting or being answered now."""
        ...

    def computed(self, batch: ComputedBatch) -> None:
        """Rows were computed together; told in the computing thread."""
        ...


class NoMetrics:
    """Nobody looks."""

    def answered(self, model: str, version: str, status: int, seconds: float, rows: int) -> None:
        """Nothing."""

    def held(self, count: int) -> None:
        """Nothing."""

    def computed(self, batch: ComputedBatch) -> None:
        """Nothing."""
