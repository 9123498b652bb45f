"""A Ray Train worker as the loop's surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from regraft.training.harness import Harness


@ray.remote(num_cpus=0)
class Mailbox:
    """Carries progress from rank 0 to the driver, which reads it twice a second."""

    def __init__(self) -> None:
        self._events: list[Mapping[str, Any]] = []

    def put(self, event: Mapping[str, Any]) -> None:
        """Add an event; nobody waits for it."""
        self._events.append(event)

    def take(self) -> list[Mapping[str, Any]]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events


class RayHarness(Harness):
    """Rank and device as Ray Train set them up; metrics and progress go to the driver."""

    def __init__(self, mailbox: Any) -> None:
        device = ray.train.torch.get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        super().__init__(device=device, progress=lambda event: mailbox.put.remote(dict(event)))
        self.here = ray.train.get_context().get_local_world_size()

    def report(self, metrics: Mapping[str, float]) -> None:
        """Metrics to Ray, once an evaluation; checkpoints are ours, Ray gets none."""
        ray.train.report(dict(metrics))
