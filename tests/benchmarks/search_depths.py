"""The time that a search over depths and learning rates saves by computing frozen layers once for all trials.

python tests/benchmarks/search_depths.py

MiniLM on 1,000 rows of SST-2 of at most 64 tokens; depths 4, 5, 6 with 4 learning rates each, 4 epochs, one worker, one
thread; with `compute.trunk: off` and with `auto` in an empty store, in turns. The losses of all evaluations must agree
to 1e-4 first. The limit is arithmetic: of 6 blocks the first k cost 1 a row and pass, the others 3 (forward, and twice
that backward); with the trunk kept the first 6 cost 1 a row once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import record
import torch
from clock import Clock, Spent, compared
from searched import FakeCoordinator, job_of, spec_of, sst2, worked

BLOCKS = 6
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
GOAL = 0.85
"""Required share of the arithmetic limit."""
NEVER_BELOW = 0.97
"""Required speed-up of a trial over the same trial that computes everything."""
TOLERANCE = 1e-4


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--rates", type=int, default=len(RATES), help="learning rates a depth")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--held", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    return parser.parse_args()


def points(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the grid."""
    return [{"method.depth": depth, "training.lr": rate} for depth in options.depths for rate in RATES[: options.rates]]


def turn(trunk: str, data: dict[str, str], options: argparse.Namespace) -> tuple[Spent, FakeCoordinator]:
    """Time a complete search in a worker, from finding the base to the end of the last trial."""
    with tempfile.TemporaryDirectory() as folder:
        method = {"type": "freeze", "depth": options.depths[0]}
        spec = spec_of(data, Path(folder) / "store", trunk, method, epochs=options.epochs)
        job = job_of(spec, options.depths)
        clock = Clock()
        coordinator = worked(job, Path(folder) / "scratch", points(options))
        return clock.read(), coordinator


def units(options: argparse.Namespace) -> tuple[float, float]:
    """Return forward passes of one block over one row, without and with the shared trunk."""
    rows, held = options.rows * options.epochs, options.held * options.epochs
    whole = sum(options.rates * (rows * (k + 3 * (BLOCKS - k)) + held * BLOCKS) for k in options.depths)
    once = (options.rows + options.held) * max(options.depths)
    return whole, once + sum(options.rates * (BLOCKS - k) * (3 * rows + held) for k in options.depths)


def slowest(kept: list[FakeCoordinator], whole: list[FakeCoordinator]) -> tuple[str, float]:
    """Return the trial with the smallest speed-up from the trunk, and the speed-up, without the shared pass."""
    gains = {
        trial: median(two.ends[trial].seconds / one.ends[trial].seconds for one, two in zip(kept, whole, strict=True))
        for trial in kept[0].ends
    }
    return min(gains.items(), key=lambda item: item[1])


def main() -> int:
    """Measure, print and write; return 1 if a goal is missed."""
    options = arguments()
    torch.set_num_threads(1)
    spent: dict[str, list[Spent]] = {"off": [], "auto": []}
    coordinators: dict[str, list[FakeCoordinator]] = {"off": [], "auto": []}
    with tempfile.TemporaryDirectory() as folder:
        data = sst2(Path(folder), options.rows, options.held)
        for _ in range(options.pairs):
            for trunk in spent:
                took, coordinator = turn(trunk, data, options)
                spent[trunk].append(took)
                coordinators[trunk].append(coordinator)
    apart = max(
        abs(a - b) for a, b in zip(coordinators["off"][0].losses(), coordinators["auto"][0].losses(), strict=True)
    )
    assert apart < TOLERANCE, f"the two searches end {apart} apart"
    found = compared(spent["auto"], spent["off"])
    gain = 1 / found["cpu"]["ratio"]
    whole, kept = units(options)
    share = gain / (whole / kept)
    trial, least = slowest(coordinators["auto"], coordinators["off"])
    print(f"{gain:.2f} times as fast, {share:.2f} of the limit {whole / kept:.2f} (goal {GOAL}); {apart:.1e} apart")
    print(f"the trial that gains least, {trial}: {least:.2f} (goal {NEVER_BELOW})")
    sizes = {name: getattr(options, name) for name in ("depths", "rates", "epochs", "rows", "held")}
    figures = {
        **sizes,
        **found,
        "gain": round(gain, 3),
        "limit": round(whole / kept, 3),
        "share_of_limit": round(share, 3),
        "apart": apart,
        "least": {"trial": trial, "gain": round(least, 3)},
        "shared": coordinators["auto"][0].shared,
        "reached": share >= GOAL and least >= NEVER_BELOW,
    }
    record.write("search_depths", figures, options.results)
    return 0 if figures["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
