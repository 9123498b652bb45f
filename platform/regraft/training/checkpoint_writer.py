"""Checkpoints that do not stop training: the step thread copies into memory, another thread hashes and uploads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from torch import Tensor

from regraft.store.checkpoints import Checkpoints, Retention, SavedCheckpoint
from regraft.training.safetensors_buffer import SafetensorsBuffer

Then = Callable[[SavedCheckpoint], None]
"""Called after the commit of a checkpoint, on the uploading thread."""


class CheckpointWriter:
    """Writes a run's checkpoints one at a time, and removes old ones if it has a retention.

    At most one upload is in progress: a second `save` waits for it. So memory holds one copy of the state, and the
    store is at most one checkpoint behind. An error of an upload is raised by the next call.
    """

    def __init__(self, checkpoints: Checkpoints, retention: Retention | None, *, pinned: bool = False) -> None:
        self._checkpoints = checkpoints
        self._retention = retention
        self._pinned = pinned
        self._buffers: dict[str, SafetensorsBuffer] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regraft-checkpoint-writer")
        self._pending: Future[SavedCheckpoint] | None = None

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        *,
        meta: Mapping[str, Any],
        then: Then | None = None,
    ) -> float:
        """Copy the state, start its upload, and return the seconds that the step thread lost.

        `tensors` maps file names (`delta.safetensors`) to live tensors by name.
        """
        started = time.perf_counter()
        self.wait()
        for name, live in tensors.items():
            self._buffer(name, live).fill(live)
        # The state is serialised here, since the loop changes it while the upload runs.
        document = json.dumps(state).encode()
        self._pending = self._thread.submit(
            partial(self._write, step, tuple(tensors), document, meta=dict(meta), then=then)
        )
        return time.perf_counter() - started

    def _buffer(self, name: str, live: Mapping[str, Tensor]) -> SafetensorsBuffer:
        buffer = self._buffers.get(name)
        if buffer is None or set(buffer.names) != set(live):
            buffer = self._buffers[name] = SafetensorsBuffer(live, pinned=self._pinned)
        return buffer

    def _write(
        self, step: int, names: tuple[str, ...], document: bytes, *, meta: dict[str, Any], then: Then | None
    ) -> SavedCheckpoint:
        bodies: dict[str, Any] = {name: self._buffers[name].bytes() for name in names}
        saved = self._checkpoints.save(step, {**bodies, "state.json": document}, meta)
        if self._retention is not None:
            self._checkpoints.retain(self._retention)
        if then is not None:
            then(saved)
        return saved

    def wait(self) -> None:
        """Wait until the upload in progress is committed; raises its error."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait until everything is committed, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown(wait=True)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of a checkpoint."""
        return {name: buffer.data.numel() for name, buffer in self._buffers.items()}
