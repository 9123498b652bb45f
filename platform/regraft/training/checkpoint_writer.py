"""Checkpoints without stopping: the step thread copies into memory, another thread hashes and uploads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from regraft.store.checkpoints import Checkpoints, Retention, Saved
from regraft.training.safetensors_buffer import TensorFile


class Saver:
    """Writes a run's checkpoints, one at a time; what of them stays is somebody else's to say where no retention is.

    At most one upload is under way: a second `save` waits for it, so that memory stays at one copy of the state and
    the store never falls behind by more than one checkpoint. An error of an upload is raised by the next call.
    """

    def __init__(self, checkpoints: Checkpoints, retention: Retention | None, *, pinned: bool = False) -> None:
        self._checkpoints = checkpoints
        self._retention = retention
        self._pinned = pinned
        self._files: dict[str, TensorFile] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regraft-saver")
        self._pending: Future[Saved] | None = None

    def save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        meta: Mapping[str, Any],
        then: Callable[[Saved], None] | None = None,
    ) -> float:
        """Take the snapshot and return the seconds the step thread lost; `then` runs after the commit.

        `tensors` maps file names (`delta.safetensors`) to live tensors.
        """
        began = time.perf_counter()
        self.wait()
        for name, live in tensors.items():
            self._file(name, live).fill(live)
        # The state is turned to bytes here: the loop goes on changing it while the upload runs.
        document = json.dumps(state).encode()
        self._pending = self._thread.submit(self._write, step, tuple(tensors), document, dict(meta), then)
        return time.perf_counter() - began

    def _file(self, name: str, live: Mapping[str, Tensor]) -> TensorFile:
        file = self._files.get(name)
        if file is None or set(file.names) != set(live):
            file = self._files[name] = TensorFile(live, pinned=self._pinned)
        return file

    def _write(
        self,
        step: int,
        names: tuple[str, ...],
        document: bytes,
        meta: dict[str, Any],
        then: Callable[[Saved], None] | None,
    ) -> Saved:
        bodies: dict[str, Any] = {name: self._files[name].bytes() for name in names}
        saved = self._checkpoints.save(step, {**bodies, "state.json": document}, meta)
        if self._retention is not None:
            self._checkpoints.retain(self._retention)
        if then is not None:
            then(saved)
        return saved

    def wait(self) -> None:
        """Until the upload under way is committed; raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Drain: returns when everything is committed."""
        try:
            self.wait()
        finally:
            self._thread.shutdown(wait=True)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of a checkpoint."""
        return {name: file.buffer.numel() for name, file in self._files.items()}
