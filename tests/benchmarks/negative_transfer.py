"""Whether the warning of negative transfer comes where the base cannot help, and only there.

python tests/benchmarks/negative_transfer.py tickets hymenoptera sst2-full brightness tickets-cipher

Trains each model with its controls in this process (`regraft.train(compare=True)`) and records the verdict. Two cases
are made so that the base cannot help. `brightness` sorts the pictures of ants and bees into dark and light ones, which
a classifier of objects has learned to overlook. The cipher replaces every word of the tickets by another word, the same
one each time: what decides a label is as easily counted as before, and what the base knows of words is worth nothing.
Takes minutes each on a free core, SST-2 the longest. Nothing here was tuned on these rows: the controls' settings were
fixed before.
"""

from __future__ import annotations

import csv
import json
import random
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import trained
from PIL import Image

import regraft
from regraft.spec.run import RunSpec

WARNED = {"tickets": False, "hymenoptera": False, "sst2-full": False, "brightness": True, "tickets-cipher": True}
"""What must be seen."""
_WORD = re.compile(r"[^\W\d_]+")


def tickets(folder: Path) -> RunSpec:
    """Return the quickstart's run."""
    return RunSpec.load(
        record.ROOT / "jobs/specs/quickstart.yaml",
        overrides={"store": str(folder / "store"), "compute.workers": 0, "compute.cpus": 1},
    )


def tickets_cipher(folder: Path) -> RunSpec:
    """Return the quickstart's run on tickets whose words are other words."""
    data = record.ROOT / "jobs/data"
    texts = [row["text"] for side in ("train", "eval") for row in _rows(data / f"tickets-{side}.csv")]
    words = sorted({word for text in texts for word in _WORD.findall(text.lower())})
    others = words[:]
    random.Random(0).shuffle(others)
    cipher = dict(zip(words, others, strict=True))
    places = {}
    for side in ("train", "eval"):
        rows = _rows(data / f"tickets-{side}.csv")
        for row in rows:
            row["text"] = _WORD.sub(lambda found: cipher[found[0].lower()], row["text"])
        places[f"data.{side}"] = str(folder / f"{side}.csv")
        with open(places[f"data.{side}"], "w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
    return RunSpec.load(
        record.ROOT / "jobs/specs/quickstart.yaml",
        overrides={"store": str(folder / "store"), "compute.workers": 0, "compute.cpus": 1, **places},
    )


def brightness(folder: Path) -> RunSpec:
    """Return a head on a small MobileNet that tells dark pictures from light ones."""
    places, middle = {}, None
    for side, name in (("train", "train"), ("eval", "val")):
        files = sorted(Path(trained.shared(f"../shared/data/hymenoptera/{name}")).rglob("*.jpg"))
        greys = [float(np.asarray(Image.open(path).convert("L").resize((32, 32)), float).mean()) for path in files]
        middle = float(np.median(greys)) if middle is None else middle
        places[side] = str(folder / f"{side}.csv")
        with open(places[side], "w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["image", "label"])
            out.writerows((path, "light" if grey > middle else "dark") for path, grey in zip(files, greys, strict=True))
    return RunSpec.resolve(
        {
            "name": "brightness",
            "base": trained.shared("../shared/models/mobilenet_v1_0.25_128"),
            "task": "image-classification",
            "method": "feature-extraction",
            "data": places,
            "training": {"epochs": 5},
            "compute": {"workers": 0, "cpus": 1},
            "store": str(folder / "store"),
        }
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


SPECS: dict[str, Callable[[Path], RunSpec]] = {
    "tickets": tickets,
    "hymenoptera": lambda folder: trained.resolved(
        "hymenoptera-feature-extraction", {"compute.cpus": 1}, str(folder / "store")
    ),
    "sst2-full": lambda folder: trained.resolved("sst2-full", {"compute.cpus": 1}, str(folder / "store")),
    "brightness": brightness,
    "tickets-cipher": tickets_cipher,
}


def measured(name: str) -> dict[str, Any]:
    """Train one model with its controls and return its record."""
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as folder:
        outcome = regraft.train(SPECS[name](Path(folder)), compare=True, progress=trained.show)
    found = outcome.comparison or {}
    return {
        "warned": found["negative_transfer"],
        "expected": WARNED[name],
        "reached": found["negative_transfer"] == WARNED[name],
        "seconds": round(outcome.seconds, 1),
        "comparison": {key: value for key, value in found.items() if key not in ("format", "change", "sha256")},
    }


def _earlier(results: Path) -> dict[str, Any]:
    """Return the cases that were recorded before."""
    path = results / "negative_transfer.json"
    cases: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else {}
    return cases


def main() -> int:
    """Run the benchmarks that are named, and record them beside the others; return 1 if one is not as expected."""
    options = trained.arguments(__doc__, list(WARNED))
    found = {name: measured(name) for name in options.names}
    for name, one in found.items():
        print(f"{name}: warned {one['warned']}, expected {one['expected']}: {one['comparison']['sentence']}")
    record.write("negative_transfer", {"cases": {**_earlier(options.results), **found}}, options.results)
    return 0 if all(one["reached"] for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
