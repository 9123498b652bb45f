"""Who answers for a version? A stand-in until the shared engine is here: one predictor for each open version."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from regraft.contracts import Answer, Task
from regraft.errors import RegraftError
from regraft.serving.predictor import Predictor
from regraft.serving.rows import checked
from regraft.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class Ask:
    """One row for one version; never an alias."""

    model: str
    version: str
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Served:
    """An open version."""

    model: str
    version: str
    hash: str
    delta_sha256: str
    task: Task
    labels: tuple[str, ...]
    meta: Mapping[str, Any]
    serves: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row that was found right."""

    ask: Ask
    row: Mapping[str, Any]
    cost: int
    unit: Literal["token", "pixel"] = "token"


class Engine:
    """Opens versions and answers rows."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        device: str = "auto",
        budget_bytes: int = 2 << 30,
        precision: Literal["auto", "fp32", "bf16"] = "fp32",
        plugins: Sequence[str | Path] = (),
        bases: Mapping[str, str] | None = None,
    ) -> None:
        self._store, self._device, self._plugins = store, device, plugins
        self._open: dict[tuple[str, str], tuple[Predictor, Served]] = {}
        self._lock = threading.Lock()

    def open(self, model: str, version: str) -> Served:
        """The version, loaded."""
        with self._lock:
            if (model, version) not in self._open:
                found = Predictor.open(self._store, f"{model}@{version}", device=self._device, plugins=self._plugins)
                served = Served(
                    model,
                    version,
                    found.hash,
                    str(found.meta.get("delta_sha256", "")),
                    found.adapted.task,
                    found.labels,
                    found.meta,
                    found.adapted.method.serves,
                )
                self._open[model, version] = found, served
            return self._open[model, version][1]

    def encode(self, ask: Ask) -> Encoded:
        """The row checked; DataError says what is wrong."""
        task = self.open(ask.model, ask.version).task
        row = checked(task, [ask.row])[0]
        return Encoded(ask, row, task.length(row), "pixel" if task.modality == "image" else "token")

    def answer(self, items: Sequence[Encoded]) -> list[Answer | RegraftError]:
        """One answer each."""
        return [self._open[item.ask.model, item.ask.version][0].attempt([item.row])[0] for item in items]

    def stats(self) -> Mapping[str, Any]:
        """What is open."""
        return {"models": len(self._open)}
