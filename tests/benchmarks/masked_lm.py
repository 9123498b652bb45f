"""Masked language modelling on the texts of a domain: pseudo-perplexity of others of it, and what it brings downstream.

nice -n 5 python tests/benchmarks/masked_lm.py --part dev --part test --budget-seconds 1200

The base is a sentence encoder without an output layer, which gets a new one, tied to its embeddings. `head alone`
trains that layer on the frozen base, `whole base` all weights, for as many steps on the same texts and masks. Both are
judged on texts that neither read. `dev` are sentences of newspaper articles: rates are chosen by it alone. `test` are
sentences of film reviews and tweets, once. Downstream, a linear head on frozen features tells the sign of a text's
rating, learned from few rated texts: on the base itself, and on the base after masked language modelling. A line is
written for each finished run, and a run with a line is not trained again, so the script goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import record
from defaults import MINILM, csv_file, lines
from trained import SHARED

from regraft.spec.run import RunSpec
from regraft.training.session import train_local

DOMAINS = {"dev": ("nytEditorialSnippets",), "test": ("movieReviewSnippets", "tweets")}
ARMS = {"head alone": "feature-extraction", "whole base": "full"}
RATES = {"head alone": 3e-3, "whole base": 3e-4}
"""Chosen on the development domain."""
TRIED = {"head alone": (1e-3, 3e-3), "whole base": (1e-4, 3e-4)}
TEXTS, HELD_OUT, LABELLED, JUDGES = 2000, 300, 200, 1000
"""Texts that are read, texts that judge the pseudo-perplexity, rated texts to learn from, those that judge."""
STEPS, MAX_LENGTH = 100, 64
Rated = list[tuple[str, str]]
Run = tuple[str, str, str, float]
"""Part, domain, arm and rate."""


def rated(domain: str) -> Rated:
    """Return the texts of a domain with the sign of their rating, shuffled in one order."""
    path = SHARED / "data" / "sentiment_multidomain" / f"{domain}_GroundTruth.txt"
    cells = [line.split("\t") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    rows = [(text.strip(), "positive" if float(rating) > 0 else "negative") for _, rating, text in cells]
    distinct = list(dict(rows).items())
    Random(0).shuffle(distinct)
    return distinct


def sides(domain: str) -> dict[str, Rated]:
    """Return the texts that are read, those that judge, and rated ones: no text is in two of them."""
    rows, found, at = rated(domain), {}, 0
    for name, count in (("judges", JUDGES), ("held_out", HELD_OUT), ("labelled", LABELLED), ("texts", TEXTS)):
        found[name] = rows[at : at + count]
        at += count
    return found


def document(folder: Path, base: str, rows: dict[str, str], **changes: Any) -> dict[str, Any]:
    """Return a spec; the last step's model is judged."""
    return {
        "name": "texts",
        "base": base,
        "data": {"train": rows["train"], "eval": 0.05, "test": rows["test"], "bad_rows": "skip"},
        "compute": {"workers": 0, "cpus": 1, "precision": "bf16"},
        "store": str(folder / "store"),
        **changes,
    }


def masked(folder: Path, domain: str, arm: str, rate: float) -> dict[str, float]:
    """Train one arm on the texts of a domain; return the metrics of held-out texts."""
    rows = sides(domain)
    files = {
        side: csv_file(folder / f"{name}.csv", ["text"], [[text] for text, _ in rows[name]])
        for side, name in (("train", "texts"), ("test", "held_out"))
    }
    training = {"steps": STEPS, "lr": rate, "batch_size": 32, "eval_steps": STEPS, "baselines": False, "warmup": 0.1}
    task = {"type": "masked-lm", "max_length": MAX_LENGTH}
    spec = document(folder, MINILM, files, task=task, method=ARMS[arm], training=training)
    outcome = train_local(RunSpec.resolve(spec))
    assert outcome.test is not None
    return dict(outcome.test["metrics"])


def probed(folder: Path, domain: str, base: str) -> float:
    """Return the accuracy of a linear head on a base's frozen features, on rated texts that it did not learn from."""
    rows = sides(domain)
    files = {
        side: csv_file(folder / f"{name}.csv", ["text", "label"], [list(row) for row in rows[name]])
        for side, name in (("train", "labelled"), ("test", "judges"))
    }
    task = {"type": "text-classification", "max_length": MAX_LENGTH, "pooling": "mean"}
    training = {"steps": 300, "lr": 0.01, "batch_size": 32, "eval_steps": 300, "baselines": False}
    spec = document(folder, base, files, task=task, method="feature-extraction", training=training, name="probe")
    outcome = train_local(RunSpec.resolve(spec))
    assert outcome.test is not None
    return float(outcome.test["metrics"]["accuracy"])


def measured(part: str, domain: str, arm: str, rate: float) -> dict[str, Any]:
    """Return the figures of one run; on the test domains, with what the whole base's training brings downstream."""
    with tempfile.TemporaryDirectory(prefix="regraft-masked-lm-") as place:
        folder = Path(place)
        found: dict[str, Any] = {"metrics": masked(folder, domain, arm, rate)}
        if part == "test" and arm == "whole base":
            found["downstream"] = {
                "the base itself": probed(folder, domain, MINILM),
                "after masked language modelling": probed(folder, domain, "model:texts@v1"),
            }
        return found


def runs(parts: Sequence[str]) -> Iterator[Run]:
    """Yield all runs: on the development domain with each rate, on the others with the chosen ones."""
    for part in parts:
        for domain in DOMAINS[part]:
            for arm in ARMS:
                for rate in TRIED[arm] if part == "dev" else (RATES[arm],):
                    yield part, domain, arm, rate


def summary(found: list[dict[str, Any]], part: str) -> dict[str, Any]:
    """Return the pseudo-perplexity of each arm by domain, the lowest where rates were tried, and downstream."""
    table: dict[str, Any] = {}
    for line in (line for line in found if line["part"] == part):
        domain = table.setdefault(line["domain"], {})
        value = line["metrics"]["pseudo_perplexity"]
        domain[line["arm"]] = min(value, domain.get(line["arm"], value))
        domain.update({"downstream": line["downstream"]} if "downstream" in line else {})
    return table


def main() -> int:
    """Run what has no line yet, until the time is over; write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="append", choices=list(DOMAINS), help="which domains (all)")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="begin no run after that time")
    parser.add_argument("--lines", type=Path, default=record.RESULTS / "masked_lm.jsonl", help="a line a run")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    began = time.monotonic()
    done = {(line["part"], line["domain"], line["arm"], line["rate"]) for line in lines(options.lines)}
    for run in runs(options.part or list(DOMAINS)):
        if run in done or time.monotonic() - began > options.budget_seconds:
            continue
        started, cpu = time.monotonic(), time.process_time()
        figures = measured(*run)
        line = {**dict(zip(("part", "domain", "arm", "rate"), run, strict=True)), **figures}
        line |= {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
        with open(options.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
    found = lines(options.lines)
    results = {part: summary(found, part) for part in DOMAINS}
    both = [one for one in results["test"].values() if set(ARMS) <= set(one)]
    reached = len(both) == len(DOMAINS["test"]) and all(one["whole base"] < one["head alone"] for one in both)
    record.write("masked_lm", {"reached": reached, **results, "runs": found})
    print(json.dumps(results, indent=2))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
