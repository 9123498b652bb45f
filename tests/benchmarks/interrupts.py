"""Interrupt a run or a search on Ray at seeded moments, one by one, and write down what each moment led to.

PYTHONPATH=tests python tests/benchmarks/interrupts.py run --seeds 0-19
PYTHONPATH=tests python tests/benchmarks/interrupts.py search --seeds 0-19 --twice

A moment that stands in the file of results is not tried again, so that a series can be done in pieces: the folder given
by --work keeps the store between them. `pytest -m long tests/breaker` does the same at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record

from support.interrupted_commands import paced
from support.interrupts_on_ray import InterruptedRun, InterruptedSearch, Moment, Subject
from support.tiny import document

SEARCH = {
    "space": {"training.lr": {"grid": [1e-4, 1e-2, 1e-3]}},
    "sampler": "grid",
    "scheduler": "none",
    "concurrency": 2,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("run", "search"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", default="0-19", help="one, or the first and the last")
    parser.add_argument("--twice", action="store_true", help="a second Ctrl-C follows within 3 s")
    parser.add_argument("--work", type=Path, default=Path("/tmp/regraft-interrupts"), help="folder of specs and stores")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of interrupts.jsonl")
    return parser.parse_args()


def subject(options: argparse.Namespace) -> Subject:
    """Return what is interrupted, with a store of its own."""
    folder = options.work / f"{options.kind}-{options.workers}{'-twice' if options.twice else ''}"
    written = folder / "written.json"
    if not written.exists():
        plain: dict[str, Any] = document(folder, epochs=25)
        plain["compute"] = {"workers": options.workers, "cpus": 1, "trunk": "off"}
        written.write_text(json.dumps(plain | ({"search": SEARCH} if options.kind == "search" else {})))
    kind = InterruptedSearch if options.kind == "search" else InterruptedRun
    return kind(folder, paced(folder, json.loads(written.read_text())))


def known(file: Path, series: Mapping[str, Any]) -> set[int]:
    """Return the seeds of a series that the file of results holds."""
    rows = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return {row["seed"] for row in rows if all(row[key] == value for key, value in series.items())}


def main() -> int:
    """Try the moments that are left; 1 where one of them was not done right."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    options = arguments()
    first, _, last = options.seeds.partition("-")
    series = {"kind": options.kind, "workers": options.workers, "twice": options.twice}
    interrupted, wrong = subject(options), False
    for seed in range(int(first), int(last or first) + 1):
        if seed in known(options.results / "interrupts.jsonl", series):
            continue
        found = interrupted.interrupted(Moment.drawn(seed, twice=options.twice))
        wrong = wrong or bool(found.problems)
        row = {**series, "seed": seed, "load": round(os.getloadavg()[0], 1), **asdict(found)}
        with (options.results / "interrupts.jsonl").open("a") as file:
            file.write(f"{json.dumps(row)}\n")
        print(row, flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
