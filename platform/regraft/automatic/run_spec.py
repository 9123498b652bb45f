"""The spec that an automatic run searches around: the look's data, shares to hold out, and what all trials share."""

from __future__ import annotations

import os
from typing import Any

from regraft.automatic.request import AutoRequest
from regraft.automatic.usable_bases import CheckedBase
from regraft.contracts import medium_of
from regraft.data.look.look import DataLook
from regraft.spec.run import RunSpec

FEWEST_HELD_OUT = 80
"""Rows that a held-out side should have."""
_SMALLEST, _LARGEST = 0.05, 0.2
_FEW_ROWS = 1000


def held_out_share(rows: int) -> float:
    """Return the share of the rows of each side that is held out: some 80 rows, between a twentieth and a fifth."""
    return round(min(_LARGEST, max(_SMALLEST, FEWEST_HELD_OUT / max(1, rows))), 2)


def data_section(look: DataLook) -> dict[str, Any]:
    """Return the section `data`: sides that the data do not have are held out of the training rows."""
    share = held_out_share(look.rows)
    return {"eval": share, "test": share, "bad_rows": "skip", **look.data}


def run_spec(request: AutoRequest, look: DataLook, chosen: CheckedBase) -> RunSpec:
    """Return the spec around which methods, depths and rates are searched."""
    task = chosen.task or look.task
    document = {
        "name": request.model,
        "base": chosen.named.reference,
        "task": task.model_dump(mode="json"),
        "method": "full",
        "data": data_section(look),
        "training": {"batch_size": batch_size(look), "seed": 0},
        "compute": {"workers": 0, "cpus": threads()},
        "store": request.store,
        "plugins": list(request.plugins),
    }
    return RunSpec.resolve(document)


def threads() -> int:
    """Return the threads of a run: one for each CPU of this process, and no more than OMP_NUM_THREADS says."""
    cpus, written = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS", "")
    return min(cpus, int(written)) if written.isdecimal() and int(written) else cpus


def batch_size(look: DataLook) -> int:
    """Return the rows of a step: fewer where there are few rows, and where a row has no single vector to learn from."""
    if "features" not in look.task.supports and not medium_of(look.task.modality).tokens:
        return 8
    return 32 if look.rows >= _FEW_ROWS else 16
