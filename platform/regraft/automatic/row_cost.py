"""What a forward pass of a row costs on this machine: a few batches, measured."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.locate import Base
from regraft.contracts import Method
from regraft.data.snapshot import Snapshot
from regraft.spec.run import RunSpec
from regraft.training.evaluate import encoded, to_device
from regraft.training.harness import LocalHarness

_BATCH = 8
_BATCHES = 4


def forward_seconds(spec: RunSpec, base: Base, snapshot: Snapshot, method: Method) -> float:
    """Return the seconds of a forward pass of a row: the median of some batches from all over the training rows."""
    harness = LocalHarness()
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(spec.compute.cpus or 1)))
    try:
        adaptation = Adaptation(task=spec.task, method=method, labels=snapshot.labels, seed=spec.training.seed)
        adapted = adapt(base, adaptation)
        adapted.model.to(harness.device)
        rows, taken = snapshot.train, []
        drawn = np.linspace(0, len(rows) - 1, min(len(rows), _BATCH * _BATCHES)).astype(np.int64)
        with torch.no_grad():
            for number in range(-1, -(-len(drawn) // _BATCH)):  # the first pass has costs that occur once a process
                indices = drawn[max(number, 0) * _BATCH : (max(number, 0) + 1) * _BATCH]
                started = time.perf_counter()
                adapted.forward(to_device(encoded(adapted, rows, indices, train=True), harness.device))
                taken.append((time.perf_counter() - started) / len(indices))
        return statistics.quantiles(taken[1:], n=4)[0] if len(taken) > 2 else taken[-1]  # others compute here too
    finally:
        torch.set_num_threads(threads)
