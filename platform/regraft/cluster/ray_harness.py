"""A Ray Train worker as the loop's surroundings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import GetTimeoutError

from regraft.contracts import Event
from regraft.training.harness import Harness

log = logging.getLogger(__name__)
LISTEN_S = 0.5
"""Seconds between two questions of the first rank whether to leave."""


@ray.remote(num_cpus=0)
class Mailbox:
    """Carries progress from rank 0 to the driver, which reads it twice a second, and word to leave the other way."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._homes: dict[int, str] = {}
        self._reason = ""

    def put(self, event: Event) -> None:
        """Add an event; nobody waits for it."""
        self._events.append(event)

    def settle(self, rank: int, node: str) -> None:
        """Note the node that a rank runs on."""
        self._homes[rank] = node

    def take(self) -> tuple[list[Event], dict[int, str]]:
        """All events since the last call, and the node of each rank that has begun."""
        events, self._events = self._events, []
        return events, self._homes

    def ask_to_leave(self, reason: str) -> None:
        """Have the workers end at the next step, with a checkpoint."""
        self._reason = reason

    def reason_to_leave(self) -> str:
        """What was asked; "" while nothing was."""
        return self._reason


class RayHarness(Harness):
    """Rank and device as Ray Train set them up; metrics and progress go to the driver."""

    def __init__(self, mailbox: Any) -> None:
        device = ray.train.torch.get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        super().__init__(device=device, progress=lambda event: mailbox.put.remote(event))
        self.here = ray.train.get_context().get_local_world_size()
        mailbox.settle.remote(self.rank, ray.get_runtime_context().get_node_id())
        if self.first:
            threading.Thread(target=self._listen, args=(mailbox,), name="regraft-notice", daemon=True).start()

    def report(self, metrics: Mapping[str, float]) -> None:
        """Metrics to Ray, once an evaluation; checkpoints are ours, Ray gets none."""
        ray.train.report(dict(metrics))

    def _listen(self, mailbox: Any) -> None:
        """Ask the driver, beside the steps, whether to leave."""
        while not self.notice:
            time.sleep(LISTEN_S)
            try:
                self.notice.give(ray.get(mailbox.reason_to_leave.remote(), timeout=30))
            except GetTimeoutError:
                continue
            except Exception as error:  # the driver is gone, and Ray ends its workers
                log.debug("nobody to listen to: %s", error)
                return
