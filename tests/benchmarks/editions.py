"""Compare the speed of this checkout with that of another one, by the benchmarks that both have.

python tests/benchmarks/editions.py ../other-checkout
python tests/benchmarks/editions.py ../other-checkout --only engine --pairs 7

Each benchmark runs as a process of its own in one checkout, then in the other, in the order A B B A ..., with the same
options and the same Python. It compares its outputs first, as always. From the figures that it writes, this one takes
the time of our side, and prints the ratio of the medians (this checkout over the other).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import record

GOAL = 1.03
BENCHMARKS: dict[str, list[str]] = {
    "step_cost": ["--pairs", "5", "--window", "6"],
    "checkpoint_stall": ["--pairs", "7", "--runs", "1", "--steps", "20"],
    "search_heads": ["--peer", "logistic", "--repeats", "1", "--compared", "1"],
    "search_depths": ["--depths", "4", "5", "--rates", "2", "--epochs", "2", "--rows", "200", "--held", "50"],
    "engine": ["--pairs", "5", "--many", "48"],
}
"""Options that keep a turn within a few minutes."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--pairs", type=int, default=3, help="turns of each checkout (default: 3)")
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), default=sorted(BENCHMARKS))
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON file")
    return parser.parse_args()


def measured(checkout: Path, name: str) -> dict[str, float]:
    """Run one benchmark in a checkout; our side's seconds by the path of the figure."""
    folder = Path(tempfile.mkdtemp(prefix="regraft-editions-"))
    paths = [str(checkout / "platform"), str(checkout / "tests"), str(checkout / "tests/benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    script = checkout / "tests/benchmarks" / f"{name}.py"
    command = [sys.executable, str(script), *BENCHMARKS[name], "--results", str(folder)]
    try:
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
        files = sorted(folder.glob("*.json"))
        if not files:
            raise RuntimeError(f"{name} in {checkout} wrote no figures:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return {key: value for path in files for key, value in ours(json.loads(path.read_text()))}
    finally:
        shutil.rmtree(folder)


def ours(document: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Every time of our side in a benchmark's figures: CPU time where it was taken, else wall time."""
    for key, value in document.items():
        if key == "seconds" and isinstance(value, Mapping) and "ours" in value:
            yield f"{path}wall", median(value["ours"])
        elif key == "cpu" and isinstance(value, Mapping):
            yield f"{path}cpu", value["ours_ms"] / 1000
        elif isinstance(value, Mapping) and key not in ("machine", "wall"):
            yield from ours(value, f"{path}{key}.")


def compared(name: str, other: Path, pairs: int) -> dict[str, Any]:
    """The figures of one benchmark in both checkouts, with the ratio of their medians."""
    sides: dict[Path, list[dict[str, float]]] = {record.ROOT: [], other: []}
    for number in range(pairs):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for checkout in order:
            sides[checkout].append(measured(checkout, name))
    figures = {}
    for key in sides[record.ROOT][0]:
        here, there = ([turn[key] for turn in sides[side]] for side in (record.ROOT, other))
        ratio = round(median(here) / median(there), 4)
        figures[key] = {"here_s": here, "there_s": there, "ratio": ratio, "reached": ratio <= GOAL}
        print(f"{name} {key}: {median(here):.3f} s here, {median(there):.3f} s there, ratio {ratio}", flush=True)
    return figures


def main() -> int:
    """Run all benchmarks asked for; 1 when one is slower here than the goal allows."""
    options = arguments()
    other = options.other.resolve()
    found = {name: compared(name, other, options.pairs) for name in options.only}
    reached = all(figure["reached"] for figures in found.values() for figure in figures.values())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=other, capture_output=True, text=True)
    figures = {"goal": GOAL, "reached": reached, "other": commit.stdout.strip(), "benchmarks": found}
    record.write("editions", figures, options.results)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
