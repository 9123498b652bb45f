"""`regraft auto` on real data with no other word: what it concludes, what it registers, and what it takes.

python tests/benchmarks/auto.py [NAME ...] [--times 1]

Tickets get five minutes; the model is then measured on the evaluation tickets, which nothing has read, and trained once
more by its spec alone, into another store: the deltas have to be the same bytes. The others get their time below.
`--times` multiplies all of them, for a machine that does other work; CPU seconds are recorded beside the wall time.
`--store FOLDER` keeps the stores, and a command that was interrupted goes on. Bases are MiniLM of its package, and what
a settings file lists: MobileNets and a small language model of `../shared`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record

import regraft
from regraft.automatic.outcome import AutoOutcome
from regraft.contracts import Event, Note
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from support.blood_cells import BCCD, small_yolos
from support.paths import SHARED

DATA = SHARED / "data"
MODELS = ("tf2_mobilenet_v2_1.0_224", "mobilenet_v1_0.25_128", "tinyllama_stories260K")
TICKETS_GOAL = 0.90


@dataclass(frozen=True)
class Case:
    """Data, and the seconds that they get."""

    data: Callable[[Path], Path]
    seconds: float
    bases: Callable[[Path], Path] | None = None
    refused: str = ""
    """What the message says, where no base can do the task."""


def chats(folder: Path) -> Path:
    """Write the dialogues as conversations: one person is the user, the other answers."""
    path = folder / "chats.jsonl"
    with (DATA / "dialogsum" / "dialogsum.dev.jsonl").open(encoding="utf-8") as file, path.open("w") as out:
        for line in file:
            said = re.findall(r"#Person([12])#: (.*)", json.loads(line)["dialogue"])
            turns: list[dict[str, str]] = []
            for person, text in said:
                role = "user" if person == said[0][0] else "assistant"
                if turns and turns[-1]["role"] == role:
                    turns[-1]["content"] += f" {text}"
                else:
                    turns.append({"role": role, "content": text})
            if len(turns) > 1:
                out.write(json.dumps({"messages": turns[: len(turns) // 2 * 2]}) + "\n")
    return path


CASES: dict[str, Case] = {
    "tickets": Case(lambda folder: record.ROOT / "jobs" / "data" / "tickets-train.csv", 300),
    "hymenoptera": Case(lambda folder: DATA / "hymenoptera", 300),
    "wnut17": Case(lambda folder: DATA / "wnut17" / "wnut17train.conll", 900),
    "movies": Case(lambda folder: DATA / "sentiment_multidomain" / "movieReviewSnippets_GroundTruth.txt", 900),
    "chats": Case(chats, 300),
    "bccd-without": Case(lambda folder: BCCD, 300, refused="no base that is there can do task object-detection"),
    "bccd": Case(lambda folder: BCCD, 600, bases=lambda folder: small_yolos(folder / "yolos")),
}


def main() -> int:
    """Run the cases that are named, and write what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--times", type=float, default=1.0, help="multiplies every time")
    parser.add_argument("--store", type=Path, help="folder of the stores (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON file")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    path = options.results / "auto.json"
    known: dict[str, Any] = json.loads(path.read_text())["cases"] if path.exists() else {}
    for name in options.names or CASES:
        with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as folder:
            place = options.store / name if options.store else Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            known[name] = measured(name, CASES[name], place, options.times)
        print(json.dumps(known[name], indent=2), flush=True)
        record.write("auto", {"goal": {"tickets": TICKETS_GOAL}, "cases": known}, options.results)
    return 0


def measured(name: str, case: Case, folder: Path, times: float) -> dict[str, Any]:
    """Run one case."""
    (folder / "settings.yaml").write_text(f"bases: {[str(SHARED / 'models' / model) for model in MODELS]}\n")
    os.environ["REGRAFT_SETTINGS"] = str(folder / "settings.yaml")
    data, bases = case.data(folder), None if case.bases is None else [str(case.bases(folder))]
    started, before = time.monotonic(), cpu_seconds()
    try:
        outcome = regraft.auto(
            data, bases=bases, budget=case.seconds * times, store=folder / "store", name=name, progress=show
        )
    except RequestError as error:
        said = error.message.replace(str(SHARED), "../shared").replace(f"{folder}/", "")
        return {"refused": said, "expected": bool(case.refused) and case.refused in said}
    found = {
        "budget_s": case.seconds * times,
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(cpu_seconds() - before, 1),
        **described(outcome),
    }
    if name == "tickets":
        found |= tickets(outcome, folder)
    return found


def described(outcome: AutoOutcome) -> dict[str, Any]:
    """Return what is kept of an outcome."""
    comparison = outcome.comparison or {}
    return {
        "task": outcome.task,
        "base": outcome.base.replace(str(SHARED), "../shared"),
        "method": outcome.method["type"],
        "score": outcome.score,
        "evaluation": outcome.metrics.get(outcome.score),
        "test": (outcome.test or {}).get("metrics", {}).get(outcome.score),
        "test_interval": (outcome.test or {}).get("intervals", {}).get(outcome.score),
        "rows": outcome.rows,
        "controls": {one["name"]: one["value"] for one in comparison.get("controls", ())},
        "baselines": {
            key: value.get(outcome.score) if isinstance(value, dict) else value
            for key, value in outcome.baselines.items()
        },
        "warning": comparison.get("warning", ""),
        "trials": [{key: one[key] for key in ("method", "settings", "value", "seconds")} for one in outcome.trials],
        "left_out": outcome.left_out,
        "budget": {key: round(value, 1) for key, value in outcome.budget.items()},
    }


def tickets(outcome: AutoOutcome, folder: Path) -> dict[str, Any]:
    """Return the score on the evaluation tickets, and whether the spec alone repeats the model."""
    rows = record.ROOT / "jobs" / "data" / "tickets-eval.csv"
    found = regraft.evaluate(f"tickets@{outcome.version}", rows, folder / "evaluation", store=outcome.store)
    accuracy = found.document["metrics"]["accuracy"]
    spec = RunSpec.load(Path(outcome.spec), overrides={"store": str(folder / "other")})
    repeated = train_local(spec)
    same = delta(outcome.store, outcome.version) == delta(str(folder / "other"), repeated.version)
    return {"eval_tickets": accuracy, "reached": accuracy >= TICKETS_GOAL, "repeated_bit_for_bit": same}


def delta(store: str, version: str) -> str:
    """Return the hash of a version's delta."""
    return str(Registry(open_store(store)).version("tickets", version).meta["delta_sha256"])


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def show(event: Event) -> None:
    """Print notes."""
    if isinstance(event, Note):
        print(f"{time.strftime('%H:%M:%S')} {event.message}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
