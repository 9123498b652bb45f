"""What the head reads of evaluation rows, kept while they are evaluated: the best checkpoint's go with its version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regraft.bases.adapted import Adapted
from regraft.data.kept_features import TEACHABLE, KeptFeatures, chosen_rows, classes_of
from regraft.data.rows import Rows
from regraft.errors import NotFound
from regraft.spec.run import RunSpec
from regraft.store.runs import Runs
from regraft.training.evaluate import ordered
from regraft.training.harness import Harness


class EvalFeatures:
    """The head's inputs of chosen evaluation rows, read while all of them are evaluated."""

    def __init__(self, layer: nn.Linear, rows: Rows, harness: Harness, *, size: int, labels: tuple[str, ...]) -> None:
        self._layer, self._rows, self._harness, self._size = layer, rows, harness, size
        self._classes = classes_of(rows, labels)
        self._chosen = np.zeros(len(rows), bool)
        self._chosen[chosen_rows(self._classes)] = True
        self._seen: list[tuple[int, Tensor]] | None = None
        """Features of this rank's rows by index; None where they cannot be read."""
        self._best: KeptFeatures | None = None
        self._step = 0

    @classmethod
    def of(cls, spec: RunSpec, adapted: Adapted, rows: Rows, harness: Harness, *, exact: bool) -> EvalFeatures | None:
        """Return what reads them; None for other tasks and heads, and for evaluations that are not `exact`."""
        layer = adapted.last_linear()
        if not len(rows) or not exact or layer is None:
            return None
        if not spec.task.supports >= TEACHABLE or spec.compute.compile:
            return None
        size = max(32, spec.training.batch_size)
        return cls(layer, rows, harness, size=size, labels=adapted.context.labels)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Read the features of one evaluation, which goes over the rows as `ordered` does."""
        self._seen = []
        order = ordered(self._rows, self._size, self._harness)

        def read(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._read(next(order, None), inputs)

        hook = self._layer.register_forward_pre_hook(read)
        try:
            yield
        finally:
            hook.remove()

    def _read(self, batch: tuple[Any, int] | None, inputs: tuple[Any, ...]) -> None:
        given = inputs[0] if inputs else None
        if self._seen is None:
            return
        if batch is None or not isinstance(given, Tensor) or given.ndim != 2 or len(given) < batch[1]:
            self._seen = None
            return
        indices, count = batch[0][: batch[1]], batch[1]
        wanted = np.flatnonzero(self._chosen[indices])
        rows = given[:count][torch.from_numpy(wanted).to(given.device)].float().cpu()
        self._seen += list(zip(indices[wanted].tolist(), rows, strict=True))

    def keep(self, step: int) -> None:
        """Keep what was read, as that of the best evaluation so far; called on every rank."""
        parts = self._harness.gather([self._seen])
        found = [item for (seen,) in parts if seen is not None for item in seen]
        self._best, self._step = None, step
        if self._harness.first and len(found) == int(self._chosen.sum()):
            found.sort(key=lambda item: item[0])
            classes = torch.from_numpy(self._classes[[index for index, _ in found]])
            self._best = KeptFeatures(torch.stack([row for _, row in found]), classes)

    def write(self, runs: Runs, run: str) -> None:
        """Store the features of the best evaluation with the run, under its step."""
        if self._best is not None and bool(self._best.features.isfinite().all()):
            runs.write(run, _document(self._step), self._best.dump())


def kept_features(runs: Runs, run: str, step: int) -> bytes | None:
    """Return the stored features of a run's checkpoint at this step; None where there are none."""
    try:
        return runs.read(run, _document(step))
    except NotFound:
        return None


def _document(step: int) -> str:
    return f"eval-features-{step}.safetensors"
