"""Shared by the tests of the command line: small published versions, a fake training, the output of a command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from regraft.contracts import Event, Progress
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version

DOCUMENT: dict[str, Any] = {
    "name": "tickets",
    "base": "some/base",
    "task": "text-classification",
    "method": {"type": "freeze", "depth": 4},
    "data": {"train": "train.csv", "eval": "eval.csv"},
    "training": {"epochs": 2, "lr": 1e-3},
}


@dataclass(frozen=True)
class CommandResult:
    """The result of a command: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Return the one JSON object on stdout; fail if there is anything else."""
        lines = self.out.splitlines()
        assert len(lines) == 1, f"stdout must hold exactly one JSON object: {self.out!r}"
        found = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert isinstance(found, dict)
        return found


Regraft = Callable[..., CommandResult]


def publish(
    store: ObjectStore, name: str = "tickets", *, seed: int = 0, overrides: Mapping[str, object] | None = None
) -> Version:
    """Publish a small version as training registers it; `overrides` are dotted fields of its spec."""
    spec = RunSpec.resolve({**DOCUMENT, "name": name}, overrides=overrides)
    dump = spec.model_dump(mode="json")
    delta = save({"classifier.weight": np.full((2, 4), float(seed), np.float32)})
    meta = {
        "task": dump["task"],
        "method": dump["method"],
        "labels": ["billing", "bug"],
        "base": {"reference": "some/base", "hash": "ab" * 32, "processor_hash": "cd" * 32},
        "metrics": {"f1": 0.75, "accuracy": 0.8 + seed / 100},
        "baselines": {"majority": {"accuracy": 0.5}, "nearest_centroid": {"accuracy": 0.7, "f1": 0.69}},
        "gain": {"mean": 0.1, "low": 0.02, "high": 0.18},
        "score": {"name": "accuracy", "mode": "max"},
        "seed": seed,
        "lineage": {"run": f"{name}-{seed}", "checkpoint": "c", "data": {"fingerprint": "f0", "rows": {"train": 9}}},
        "delta_sha256": f"{seed:064x}",
        "delta_bytes": len(delta),
        "seconds": 12.5,
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"regraft": "0.1.0"},
    }
    files = {"delta.safetensors": delta, "spec.yaml": spec.dump().encode(), "card.md": b"# card"}
    return Registry(store).publish(name, files, meta)


@dataclass
class FakeTraining:
    """Replaces the training: sends events, then returns an outcome or raises."""

    calls: list[tuple[RunSpec, dict[str, Any]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    error: BaseException | None = None
    before: Callable[[], None] = lambda: None
    outcome: dict[str, Any] = field(default_factory=dict)

    def __call__(self, spec: RunSpec, *, progress: Progress | None, **options: Any) -> Any:
        self.calls.append((spec, options))
        self.before()
        for event in self.events:
            if progress is not None:
                progress(event)
        if self.error is not None:
            raise self.error
        return FakeOutcome(**{"model": spec.name, "run": spec.run, "store": spec.store, **self.outcome})


@dataclass(frozen=True)
class FakeOutcome:
    """The fields of training's Outcome."""

    model: str
    run: str
    store: str
    version: str = "v1"
    metrics: dict[str, float] = field(default_factory=lambda: {"accuracy": 0.875, "f1": 0.86})
    baselines: dict[str, Any] = field(
        default_factory=lambda: {"majority": {"accuracy": 0.25}, "nearest_centroid": {"accuracy": 0.75}}
    )
    seconds: float = 83.0
    verdicts: str = ""
    score: str = "accuracy"
    gain: dict[str, Any] | None = None
    delta_bytes: int = 600_000
    base_bytes: int = 90_000_000
    already: bool = False
    note: str = ""
    advice: str = ""
    test: dict[str, Any] | None = None
    comparison: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""
        return asdict(self)
