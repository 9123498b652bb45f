"""The place where a run's loop runs: the only interface between the loop and its surroundings.

`LocalHarness` is this process, or one rank of a process group that the caller made. `RayHarness` in `regraft.cluster`
is a Ray Train worker. Both run the same loop.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from regraft.contracts import Event, Progress
from regraft.training.stop_signals import StopNotice

T = TypeVar("T")
log = logging.getLogger(__name__)


class Pulse:
    """The signs of life of whoever trains: each step, each evaluated batch, each call of another process."""

    def __init__(self) -> None:
        self.last, self.longest = time.monotonic(), 0.0
        """Time of the newest sign, and the longest time between two of them."""

    def begin(self) -> None:
        """Start anew, without counting the time since the last sign."""
        self.last = time.monotonic()

    def beat(self) -> None:
        """Give a sign of life."""
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now

    @property
    def silent_s(self) -> float:
        """Seconds since the newest sign."""
        return time.monotonic() - self.last


class Harness:
    """Rank, world and device of this process, and the communication between ranks.

    `here` is the number of ranks on this machine. A `notice` on any rank ends all ranks at the same step, with a
    checkpoint.
    """

    def __init__(self, *, device: torch.device | None = None, progress: Progress | None = None) -> None:
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.world = dist.get_world_size() if grouped else 1
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if grouped else 1
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.notice = StopNotice()
        self.pulse = Pulse()
        self.stepping = False
        """Whether steps are taken, so that a notice is met at the end of one."""
        self._progress = progress

    @property
    def first(self) -> bool:
        """True on rank 0, which alone writes to the store and shows progress."""
        return self.rank == 0

    def emit(self, event: Event) -> None:
        """Pass an event to `progress`, on rank 0 only; an error of `progress` is logged and goes no further."""
        if self.first and self._progress is not None:
            try:
                self._progress(event)
            except Exception as error:
                log.warning("progress could not be shown: %s", error)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Report the metrics of an evaluation, on every rank; a barrier under Ray."""

    def consumed(self, step: int, rows: np.ndarray) -> None:
        """Called after each step with the row indices of all ranks; subclasses may count them."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place, and return it; called on every rank."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: list[T]) -> list[list[T]]:
        """Return every rank's list in rank order on the first rank, and an empty list on the others."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(value, values)
        return values or []

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the first rank's buffers to every rank."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def from_first(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


class LocalHarness(Harness):
    """Runs the loop in this process, without Ray: for `workers: 0`, for tests, and for machines without Ray."""
