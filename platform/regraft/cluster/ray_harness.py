"""The harness of a Ray Train worker."""

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
POLL_S = 0.5
"""Seconds between two questions of the first rank whether it should stop."""


@ray.remote(num_cpus=0)
class Mailbox:
    """Carries progress from rank 0 to the driver, which reads it twice a second, and stop requests the other way."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._nodes: dict[int, str] = {}
        self._reason = ""

    def put(self, event: Event) -> None:
        """Add an event; the caller does not wait."""
        self._events.append(event)

    def register(self, rank: int, node: str) -> None:
        """Record the node that a rank runs on."""
        self._nodes[rank] = node

    def take(self) -> tuple[list[Event], dict[int, str]]:
        """Return all events since the last call, and the node of each rank that has begun."""
        events, self._events = self._events, []
        return events, self._nodes

    def request_stop(self, reason: str) -> None:
        """Make the workers stop at the next step, with a checkpoint."""
        self._reason = reason

    def stop_reason(self) -> str:
        """Return why the workers were asked to stop; empty while they were not."""
        return self._reason


class RayHarness(Harness):
    """Uses rank and device as Ray Train set them up, and sends metrics and progress to the driver."""

    def __init__(self, mailbox: Any) -> None:
        device = ray.train.torch.get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        super().__init__(device=device, progress=lambda event: mailbox.put.remote(event))
        self.here = ray.train.get_context().get_local_world_size()
        mailbox.register.remote(self.rank, ray.get_runtime_context().get_node_id())
        if self.first:
            threading.Thread(target=self._poll, args=(mailbox,), name="regraft-notice", daemon=True).start()

    def report(self, metrics: Mapping[str, float]) -> None:
        """Report metrics to Ray after an evaluation. Ray gets no checkpoints: regraft writes its own."""
        ray.train.report(dict(metrics))

    def _poll(self, mailbox: Any) -> None:
        """Ask the driver whether to stop, in a separate thread."""
        while not self.notice:
            time.sleep(POLL_S)
            try:
                self.notice.give(ray.get(mailbox.stop_reason.remote(), timeout=30))
            except GetTimeoutError:
                continue
            except Exception as error:  # the driver is gone, and Ray ends its workers
                log.debug("the driver does not answer: %s", error)
                return
