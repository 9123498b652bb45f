"""`regraft select` beside the truth: six bases of each medium on eight sets, fine-tuned with three seeds.

nice -n 5 python tests/benchmarks/select_bases.py truth --budget-seconds 3000
nice -n 5 python tests/benchmarks/select_bases.py choose
python tests/benchmarks/select_bases.py table

`truth` fine-tunes each base on each set; rows that chose nothing judge. `choose` ranks the bases by training rows
alone. A line is written for each finished cell, and a cell with a line is not made again. `table` compares both and
writes the record; how scores combine was fixed on the sets of `DEVELOPMENT` before the truth of another set was read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
from choice_sets import BASES, DEVELOPMENT, MEDIA, SETS, document, write_base

from regraft.spec.run import RunSpec
from regraft.training.session import train_local

SEEDS = (0, 1, 2)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines that were written."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def truth_cells() -> Iterator[tuple[str, str, int]]:
    """Yield set, base and seed of each fine-tuning, the development part first."""
    for seed in SEEDS:
        for name in sorted(SETS, key=lambda one: one not in DEVELOPMENT):
            yield from ((name, base, seed) for base in BASES[MEDIA[name]])


def fine_tuned(name: str, base: str, seed: int, bases: Path) -> dict[str, Any]:
    """Fine-tune a base on a set; return its figures on the rows that judge."""
    with tempfile.TemporaryDirectory(prefix="regraft-select-") as place:
        folder = Path(place)
        rows = SETS[name](folder)
        spec = RunSpec.resolve(document(name, rows, write_base(base, bases / base), seed, folder / "store"))
        started, cpu = time.monotonic(), time.process_time()
        outcome = train_local(spec)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        score = spec.task.score
        figures = {"score": score.name, "mode": score.mode, "value": outcome.metrics[score.name]}
        return {**figures, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}


def make_truth(options: argparse.Namespace) -> None:
    """Fine-tune what has no line yet, until the time is over; the scores are not shown."""
    began = time.monotonic()
    known = {(one["set"], one["base"], one["seed"]) for one in lines(options.lines) if one["stage"] == "truth"}
    for name, base, seed in truth_cells():
        if (name, base, seed) in known or time.monotonic() - began > options.budget_seconds:
            continue
        line = {"stage": "truth", "set": name, "base": base, "seed": seed}
        line |= fine_tuned(name, base, seed, options.bases)
        with options.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(name, base, seed, line["seconds"], flush=True)


def main() -> int:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=["truth", "choose", "table"])
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="begin nothing after that time")
    parser.add_argument("--lines", type=Path, default=record.RESULTS / "select_bases.jsonl", help="a line a cell")
    parser.add_argument("--bases", type=Path, default=Path(tempfile.gettempdir()) / "regraft-select-bases")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.stage == "truth":
        make_truth(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
