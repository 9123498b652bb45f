"""What a benchmark leaves behind: its figures, the machine they were measured on, the command that measured them."""

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
"""Processes that wanted a core before this one began, over 1, 5 and 15 minutes: near 0 on a quiet machine."""


def write(name: str, figures: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `<folder>/<name>.json`; the path."""
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
    """The command line of this process, as it is typed in the root of the checkout; where results go is left out."""
    script, words = Path(sys.argv[0]).resolve(), list(sys.argv[1:])
    if "--results" in words:
        at = words.index("--results")
        del words[at : at + 2]
    return shlex.join(["python", str(script.relative_to(ROOT)), *words])


def machine() -> dict[str, Any]:
    """Facts without which a figure in seconds says nothing."""
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
    """The processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
