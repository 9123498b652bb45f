"""What the parts of a run took: kept with its record, so that later plans know it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch


def now() -> float:
    """Return the Unix time by which budgets count: drivers and workers are on different machines."""
    return time.time()


@dataclass(slots=True)
class RunTimes:
    """Seconds of one attempt by part."""

    began: float = field(default_factory=monotonic)
    parts: dict[str, float] = field(default_factory=dict)
    """load, baselines, trunk, evaluation, pause, end."""
    first_step: float = 0.0
    """The first step, in which libraries warm up."""
    steps: int = 0
    """Steps after the first."""
    step_s: float = 0.0
    slowest_step: float = 0.0
    evaluations: int = 0
    slowest_pause: float = 0.0
    """The longest that a checkpoint held the steps up."""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        began = monotonic()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + monotonic() - began

    def stepped(self, seconds: float) -> None:
        """Add a step."""
        if not self.first_step:
            self.first_step = seconds
            return
        self.steps, self.step_s = self.steps + 1, self.step_s + seconds
        self.slowest_step = max(self.slowest_step, seconds)

    @property
    def mean_step(self) -> float:
        """Seconds of a step after the first; of the first where there is no other."""
        return self.step_s / self.steps if self.steps else self.first_step

    def document(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "parts": {name: round(seconds, 4) for name, seconds in self.parts.items()},
            "first_step_s": round(self.first_step, 4),
            "step_s": round(self.mean_step, 6),
            "steps": self.steps + bool(self.first_step),
            "evaluations": self.evaluations,
            "seconds": round(monotonic() - self.began, 4),
        }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the times of this process depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}


def peak_bytes(device: torch.device) -> int:
    """Return the most memory so far: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return 0


def _processor() -> str:
    try:
        lines: Mapping[str, str] = dict(
            line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
        )
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, value in lines.items()}
    return found.get("model name", platform.processor())
