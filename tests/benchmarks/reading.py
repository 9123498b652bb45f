"""Compare the time to read and check rows with that of another checkout: pictures and a table, first and second time.

python tests/benchmarks/reading.py ../other-checkout
python tests/benchmarks/reading.py ../other-checkout --pictures 2000 --rows 20000 --pairs 3

Each reading is a process of its own, in the order A B B A ... The first reading has an empty cache folder; the second
one finds what the first has left there. Both sides must read the same numbers of rows before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import record
from PIL import Image

GOAL = 1.1
READ = """
import json, sys, tempfile, time
from regraft.data.snapshot import build_snapshot
try:
    from regraft.spec.sections import DataSpec
except ModuleNotFoundError:
    from regraft.spec import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.image_classification import ImageClassification
from regraft.tasks.text_classification import TextClassification

task = {"pictures": ImageClassification, "table": TextClassification}[sys.argv[1]]()
data = DataSpec(train=sys.argv[2], eval=0.2)
with tempfile.TemporaryDirectory() as folder:
    began, cpu = time.perf_counter(), time.process_time()
    read = build_snapshot(open_store(folder), task, data)
    spent = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    print(json.dumps({"rows": len(read.train) + len(read.eval), "labels": len(read.labels), **spent}))
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON file")
    return parser.parse_args()


def pictures(folder: Path, count: int) -> Path:
    """Write pictures of noise into two class folders."""
    draw = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
    for number in range(count):
        pixels = draw.integers(0, 255, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[number % 2] / f"{number:06}.jpg")
    return folder


def table(path: Path, rows: int) -> Path:
    """Write a table of short texts."""
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        file.writelines(f"a text with some words and the number {n},label {n % 7}\n" for n in range(rows))
    return path


def read(checkout: Path, kind: str, data: Path, cache: Path) -> dict[str, Any]:
    """Read the data in a process of that checkout; its rows and seconds."""
    paths = os.pathsep.join([str(checkout / "platform"), str(checkout / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "REGRAFT_CACHE": str(cache)}
    command = [sys.executable, "-c", READ, kind, str(data)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def timed(sides: Sequence[Path], kind: str, data: Path, pairs: int) -> dict[str, dict[Path, list[dict[str, Any]]]]:
    """Read first and second in both checkouts, in turns."""
    found: dict[str, dict[Path, list[dict[str, Any]]]] = {
        turn: {side: [] for side in sides} for turn in ("first", "second")
    }
    for number in range(pairs):
        for side in sides if number % 2 == 0 else sides[::-1]:
            with tempfile.TemporaryDirectory() as cache:
                for turn in ("first", "second"):
                    found[turn][side].append(read(side, kind, data, Path(cache)))
    return found


def figures(found: Mapping[Path, Sequence[Mapping[str, Any]]], sides: Sequence[Path]) -> dict[str, Any]:
    """Return the medians of both sides and their ratio."""
    here, there = sides
    counts = {(one["rows"], one["labels"]) for turns in found.values() for one in turns}
    assert len(counts) == 1, f"the sides read other rows: {counts}"
    made: dict[str, Any] = {"rows": counts.pop()[0]}
    for clock in ("wall", "cpu"):
        ours, theirs = (median(one[clock] for one in found[side]) for side in (here, there))
        made[clock] = {"here_s": round(ours, 3), "there_s": round(theirs, 3), "ratio": round(ours / theirs, 3)}
    return made


def main() -> int:
    """Time both kinds; 1 when the second reading of one is slower than the goal allows."""
    options = arguments()
    sides = (record.ROOT, options.other.resolve())
    with tempfile.TemporaryDirectory() as folder:
        data = {
            "pictures": pictures(Path(folder) / "pictures", options.pictures),
            "table": table(Path(folder) / "rows.csv", options.rows),
        }
        made = {}
        for kind, place in data.items():
            for turn, found in timed(sides, kind, place, options.pairs).items():
                made[f"{kind} {turn}"] = figures(found, sides)
                print(kind, turn, made[f"{kind} {turn}"], flush=True)
    # By CPU time: a reading is one thread's work, and other work on the machine moves the wall time of either side.
    reached = made["pictures second"]["cpu"]["ratio"] <= GOAL and made["table second"]["cpu"]["ratio"] <= GOAL
    record.write("reading", {"goal": GOAL, "reached": reached, **made}, options.results)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
