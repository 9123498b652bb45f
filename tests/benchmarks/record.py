"""The record of a benchmark: its results, the machine, and the command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
LOAD = [round(load, 2) for load in os.getloadavg()]
"""Load average over 1, 5 and 15 minutes before the start: near 0 on an idle machine."""


def write(name: str, figures: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `<folder>/<name>.json`; return the path."""
    document = {
        "benchmark": name,
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        **figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return path


def command() -> str:
    """Return this process's command line, relative to the checkout, without the results folder."""
    script, words = Path(sys.argv[0]).resolve(), list(sys.argv[1:])
    if "--results" in words:
        at = words.index("--results")
        del words[at : at + 2]
    return shlex.join(["python", str(script.relative_to(ROOT)), *words])


def machine() -> dict[str, Any]:
    """Return the facts that a time depends on."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": LOAD,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "transformers", "ray")},
    }


def cpu_model() -> str:
    """Return the processor's name by the kernel."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
