"""The readable results of a run: metrics.jsonl and a TensorBoard file, stored beside its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs


class MetricsLog:
    """Publishes the log with each checkpoint, never ahead of it, so that a resumed run repeats no line."""

    def __init__(self, store: ObjectStore, run: str, folder: Path, *, write: bool) -> None:
        self._store, self._run, self._folder, self._write = store, run, folder, write
        self._writer: SummaryWriter | None = None
        self._shown = 0

    def publish(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Store all lines so far; called by the checkpoint writer's thread after a commit."""
        if not self._write:
            return
        text = "".join(json.dumps(line) + "\n" for line in lines)
        Runs(self._store).write(self._run, "metrics.jsonl", text.encode())
        self._tensorboard(lines)

    def _tensorboard(self, lines: Sequence[Mapping[str, Any]]) -> None:
        # Each attempt writes the file again from the log's first line, so that a resumed run shows one curve.
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(self._folder), filename_suffix=".regraft")
        for line in lines[self._shown :]:
            for name, value in line.items():
                if name not in ("step", "epoch") and isinstance(value, int | float):
                    self._writer.add_scalar(_scalar(name), value, line["step"])
        self._shown = len(lines)
        self._writer.flush()
        for path in self._folder.iterdir():
            # One key for all attempts: the later file replaces the earlier one.
            self._store.put(f"runs/{self._run}/tensorboard/events.out.tfevents.regraft", path.read_bytes())

    def close(self) -> None:
        """End the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()


def _scalar(name: str) -> str:
    """Return the name in TensorBoard of a number of the log."""
    side = next((side for side in ("eval", "test") if name.startswith(f"{side}_")), None)
    return f"{side}/{name.removeprefix(f'{side}_')}" if side else f"train/{name}"
