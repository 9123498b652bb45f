"""Makes the store of the first edition: run with the code of commit b83c3a5, and never again.

    cd <a checkout of b83c3a5>
    PYTHONPATH=platform:tests OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 RAY_AUTH_MODE=token python make_store.py OUT

OUT gets `home.tar.xz` (specs, rows, bases and the store, as b83c3a5 left them), `expected.json` and
`expected.safetensors` (what comes of it when b83c3a5 itself goes on). Values are the same each time; ids, hashes of
manifests and times are not, so that a second making is another store.

What is expected comes from runs that nobody stopped, in another folder. The stopped ones are then continued here from a
copy in a third folder, and must end in the same bits: else nothing is written.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import TOPICS, WORDS, tiny_bert
from transformers import ResNetConfig, ResNetModel

import regraft
from regraft import contracts
from regraft.cli import main as command
from regraft.errors import AskedWrong, Stopped
from regraft.spec import RunSpec

COMMIT = "b83c3a5"
SIDE = 16
"""Pixels of a picture's side, which the image processor of the base leaves as they are."""
COLOURS = ("blue", "green", "red")
HERE = "/proc/self/cwd"
"""The current directory by a name that is the same wherever it is: see README.md."""
ASKED = 1054
"""Rows of the predictions: one block of 1024, and a rest."""
TEXTS, PHOTOS = 62, 12
"""How many of them differ: row i holds text i % TEXTS, or photo i % PHOTOS."""
STOPPED = {"texts": 10, "pictures": 8, "photos": 5}
"""After which step each run is told to end."""

Spec = dict[str, Any]
Events = list[Mapping[str, Any]]


def specs() -> dict[str, Spec]:
    """Every spec, by its name. SGD where a gradient is nothing but rounding (a key's bias), which AdamW would blow up
    to steps of the learning rate."""
    text = {"task": "text-classification", "data": {"train": "rows/train.csv", "eval": "rows/eval.csv"}}
    image: Spec = {"task": "image-classification"}
    compute = {"workers": 0, "cpus": 1, "gpus": 0, "precision": "fp32", "trunk": "off"}
    sgd = {"optimizer": "sgd", "batch_size": 8}
    packed = {"train": "rows/train.parquet", "eval": "rows/eval.parquet"}
    space = {
        "method": {
            "choice": [*({"type": "freeze", "depth": depth} for depth in ("all", "50%", 1)), "feature-extraction"]
        },
        "training.lr": {"loguniform": [0.03, 0.5]},
    }
    # By the hub's name, since a version keeps where its base is; the others by a path below the current directory.
    made: dict[str, Spec] = {
        "tickets": {
            **text,
            "base": "tiny/text",
            "method": {"type": "freeze", "depth": 1},
            "training": {**sgd, "epochs": 3, "lr": 0.2},
            "compute": {**compute, "trunk": "disk"},
        },
        "colours": {
            **image,
            "base": "tiny/image",
            "method": "feature-extraction",
            "data": packed,
            "training": {**sgd, "epochs": 4, "lr": 0.3},
        },
        "texts": {
            **text,
            "base": "hub/tiny/text",
            "method": {"type": "lora", "rank": 2, "dropout": 0.1},
            "training": {"batch_size": 8, "epochs": 3, "lr": 0.05, "checkpoint_steps": 4, "seed": 5},
        },
        "pictures": {
            **image,
            "base": "hub/tiny/image",
            "method": "full",
            "data": packed,
            "training": {**sgd, "epochs": 3, "lr": 0.05, "checkpoint_steps": 3, "label_smoothing": 0.1},
        },
        "photos": {
            **image,
            "base": "hub/tiny/image",
            "method": "feature-extraction",
            "data": {"train": f"{HERE}/photos/train", "eval": f"{HERE}/photos/eval"},
            "training": {"batch_size": 10, "epochs": 4, "lr": 0.03, "weight_decay": 0.05},
        },
        "searched": {
            **text,
            "base": "hub/tiny/text",
            "method": "freeze",
            "training": {**sgd, "epochs": 3, "lr": 0.1},
            "compute": {**compute, "trunk": "disk"},
            "search": {"space": space, "trials": 6, "sampler": "random", "scheduler": "none", "keep": 2, "seed": 3},
        },
    }
    made = {name: {"name": name, "compute": compute, "store": "store", **spec} for name, spec in made.items()}
    again = {**made["tickets"], "training": {**made["tickets"]["training"], "lr": 0.1}}
    return {**made, "tickets-again": again}


def write_inputs(home: Path) -> None:
    """Bases, rows, pictures and specs, below the folder `home`."""
    (home / "rows").mkdir(parents=True)
    tiny_bert(home / "hub/tiny/text", width=8)
    tiny_resnet(home / "hub/tiny/image")
    for side, rows, seed in (("train", 48, 1), ("eval", 24, 2)):
        write_csv(home / f"rows/{side}.csv", ["text", "label"], tickets(rows, seed=seed))
    texts = [text for text, _ in tickets(TEXTS, seed=3)]
    write_csv(home / "ask.csv", ["id", "text"], [(f"r{number}", texts[number % TEXTS]) for number in range(ASKED)])
    for side, each, seed in (("train", 10, 1), ("eval", 5, 2)):
        files = coloured(home / "photos" / side, each=each, seed=seed)
        pictures = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
        table = pa.table({"image": pictures, "label": [path.parent.name for path in files]})
        pq.write_table(table, home / f"rows/{side}.parquet", compression="none")
    photos = [path.relative_to(home / "photos").as_posix() for path in (home / "photos/eval").rglob("*.png")]
    photos = sorted(photos)[:PHOTOS]
    asked = [(f"r{number}", photos[number % PHOTOS]) for number in range(ASKED)]
    write_csv(home / "photos/ask.csv", ["id", "image"], asked)
    for name, spec in specs().items():
        (home / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def write_csv(path: Path, columns: list[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns)
        out.writerows(rows)


def tickets(rows: int, *, seed: int) -> list[tuple[str, str]]:
    """Short texts, most words of which are of their label's topic."""
    draw = random.Random(seed)
    made = []
    for number in range(rows):
        label = sorted(TOPICS)[number % len(TOPICS)]
        words = draw.choices(WORDS[16:], k=draw.randint(1, 4)) + draw.choices(TOPICS[label], k=4)
        draw.shuffle(words)
        made.append((" ".join(words), label))
    return made


def tiny_resnet(folder: Path) -> None:
    """A ResNet of random weights, and a processor that changes no size."""
    torch.manual_seed(11)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def coloured(folder: Path, *, each: int, seed: int) -> list[Path]:
    """Noisy pictures in folders that are named after their colour."""
    draw = np.random.default_rng(seed)
    made = []
    for channel, colour in enumerate(reversed(COLOURS)):
        (folder / colour).mkdir(parents=True)
        for number in range(each):
            pixels = draw.normal(100, 60, (SIDE, SIDE, 3))
            pixels[..., channel] += 60
            made.append(folder / colour / f"{number:02d}.png")
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(made[-1])
    return sorted(made)


def write_store(home: Path) -> dict[str, int]:
    """What was finished, and what was stopped half-way; the step at which each run stands."""
    os.chdir(home)
    for name in ("tickets", "colours"):
        regraft.train(f"{name}.yaml")
    assert command(["models", "promote", "tickets@v1", "production", "--store", "store", "--json"]) == 0
    stands = {name: stopped(name, step) for name, step in STOPPED.items()}
    interrupted(lambda progress: regraft.search("searched.yaml", progress=progress), second_evaluation_of("t0002"))
    interrupted(lambda progress: predicted("texts", progress=progress), a_block_is_done)
    interrupted(lambda progress: predicted("photos", progress=progress), a_block_is_done)
    return stands


def stopped(name: str, step: int) -> int:
    """Begin a run, and ask this process to end after a step; where it stands then."""

    def progress(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        regraft.train(f"{name}.yaml", progress=progress)
    except Stopped:
        (record,) = Path("store/runs").glob(f"{name}-*/run.json")
        found = json.loads(record.read_text())
        assert found["state"] == "stopped"
        return int(found["step"])
    raise AssertionError(f"{name} was not stopped")


def interrupted(work: Callable[[Callable[[Mapping[str, Any]], None]], object], when: Callable[[Any], bool]) -> None:
    """Begin something, and press Ctrl-C at the first event that `when` holds of."""

    def progress(event: Mapping[str, Any]) -> None:
        if when(event):
            raise KeyboardInterrupt

    try:
        work(progress)
    except KeyboardInterrupt:
        return
    raise AssertionError("it was not interrupted")


def a_block_is_done(event: Mapping[str, Any]) -> bool:
    return bool(event["event"] == "step")


def second_evaluation_of(trial: str) -> Callable[[Any], bool]:
    told: list[float] = []

    def when(event: Mapping[str, Any]) -> bool:
        if event["event"] == "trial" and event["id"] == trial and event["epoch"] is not None:
            told.append(event["epoch"])
        return len(told) == 2

    return when


def predicted(kind: str, **options: Any) -> Any:
    """Ask all rows of a kind."""
    model, rows, out = {
        "texts": ("tickets@production", "ask.csv", "texts.jsonl"),
        "photos": ("colours@v1", f"{HERE}/photos/ask.csv", "photos.parquet"),
    }[kind]
    return regraft.predict(model, rows, out, store="store", workers=0, **options)


def answers(kind: str) -> list[dict[str, Any]]:
    """The lines of a whole prediction."""
    if kind == "photos":
        return list(pq.read_table("photos.parquet").to_pylist())
    return [json.loads(line) for line in Path("texts.jsonl").read_text().splitlines()]


def end(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A run to its end: what it tells, and its delta."""
    outcome = regraft.train(f"{name}.yaml")
    assert not outcome.already
    lines = Path(f"store/runs/{outcome.run}/metrics.jsonl").read_text().splitlines()
    found = {
        "run": outcome.run,
        "version": outcome.version,
        "metrics": outcome.metrics,
        "baselines": outcome.baselines,
        "series": [json.loads(line) for line in lines],
    }
    return found, delta(outcome.model, outcome.version)


def end_of_search() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A search to its end: each trial, and the winner's delta."""
    outcome = regraft.search("searched.yaml")
    lines = Path(f"store/searches/{outcome.run}/trials.jsonl").read_text().splitlines()
    found = {
        "run": outcome.run,
        "version": outcome.version,
        "winner": outcome.winner,
        "metrics": outcome.metrics,
        "baselines": outcome.baselines,
        "trials": [told_of(json.loads(line)) for line in lines],
    }
    return found, delta(outcome.model, str(outcome.version))


def told_of(trial: Mapping[str, Any]) -> dict[str, Any]:
    reports = [{key: report[key] for key in ("step", "epoch", "metrics")} for report in trial["reports"]]
    return {**{key: trial[key] for key in ("id", "overrides", "status", "best")}, "reports": reports}


def delta(model: str, version: str) -> dict[str, torch.Tensor]:
    return load_file(f"store/models/{model}/{version}/delta.safetensors")


def everything(home: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What comes of all that is in a home."""
    os.chdir(home)
    found: dict[str, Any] = {"runs": {}}
    tensors: dict[str, torch.Tensor] = {}
    for name in (*STOPPED, "tickets-again"):
        found["runs"][name], moved = end(name)
        tensors |= {f"{name}/{key}": value for key, value in moved.items()}
    found["search"], moved = end_of_search()
    tensors |= {f"searched/{key}": value for key, value in moved.items()}
    with Path("ask.csv").open(newline="") as file:
        asked = [row["text"] for row in csv.DictReader(file)][:5]
    model = regraft.load("tickets@production", store="store")
    measured = regraft.evaluate("tickets@v1", "rows/eval.csv", "page", store="store", resamples=20, worst=1)
    found["version"] = {
        "rows": asked,
        "labels": list(model.labels),
        "answers": model.predict(asked),
        "metrics": measured.document["metrics"],
    }
    found["predict"] = {}
    for kind, many in (("texts", TEXTS), ("photos", PHOTOS)):
        predicted(kind)
        lines = answers(kind)
        for number, line in enumerate(lines):
            told, known = line["answer"], lines[number % many]["answer"]
            assert told["label"] == known["label"] and abs(told["score"] - known["score"]) < 1e-7
        found["predict"][kind] = [{key: value for key, value in line.items() if key != "id"} for line in lines[:many]]
    return found, tensors


def names() -> list[dict[str, Any]]:
    """What runs of every task, method, loss and source are called, and of some other fields; paths that are not below
    any current directory."""
    documents: list[Spec] = []
    plain = {"name": "named", "base": "org/base", "method": "full", "data": {"train": "s3://b/train", "eval": 0.2}}
    for task in contracts.Task.names():
        documents.append({**plain, "task": task})
    text = {**plain, "task": "text-classification"}
    for method in contracts.Method.names():
        documents.append({**text, "method": method})
    for loss in contracts.Loss.names():
        documents.append({**text, "losses": [loss]})
    for source in contracts.Source.names():
        documents.append({**text, "data": {**text["data"], "format": source}})
    documents.append({**text, "training": {"steps": 9, "eval_steps": 3, "class_weights": {"a": 1.0, "b": 2.0}}})
    documents.append({**text, "data": {**text["data"], "labels": ["b", "a"], "group": "g", "bad_rows": "skip"}})
    documents.append({**text, "compute": {"workers": [1, 8]}, "search": {"space": {"training.lr": {"grid": [0.1]}}}})
    found = []
    for document in documents:
        try:
            found.append({"spec": document, "run": RunSpec.resolve(document).run})
        except AskedWrong as error:  # a task or a source with a field that must be written
            print(f"left out: {document}: {error}")
    return found


def made_by() -> dict[str, Any]:
    """What the bits depend on."""
    root = Path(regraft.__file__).parents[2]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True).stdout
    assert commit.startswith(COMMIT) and not changed, f"{root} is not an unchanged {COMMIT}"
    packages = ("torch", "transformers", "pillow", "numpy", "pyarrow", "safetensors", "tokenizers", "peft")
    return {
        "commit": commit,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {name: installed(name) for name in packages},
    }


def pack(home: Path, archive: Path) -> None:
    """All files of a home as one, by their names; who made them and how they may be read does not travel."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(home.rglob("*")):
            tar.add(path, path.relative_to(home).as_posix(), recursive=False, filter=plain)


def main(out: Path) -> None:
    """Make the store, go on from a copy of it, and write both down."""
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    about = made_by()
    with tempfile.TemporaryDirectory(prefix="first-edition-") as scratch:
        os.environ["REGRAFT_CACHE"] = f"{scratch}/cache"
        os.environ["REGRAFT_HUB_MIRROR"] = "hub"  # as it is in the current directory
        home, straight, moved = (Path(scratch) / name for name in ("home", "straight", "moved/elsewhere"))
        write_inputs(home)
        shutil.copytree(home, straight)
        steps = write_store(home)
        shutil.copytree(home, moved)
        os.chdir(straight)
        for name in ("tickets", "colours"):
            regraft.train(f"{name}.yaml")
        assert command(["models", "promote", "tickets@v1", "production", "--store", "store", "--json"]) == 0
        expected, tensors = everything(straight)
        continued, same = everything(moved)
        assert continued == expected, "a stopped run ends in other bits"
        assert tensors.keys() == same.keys() and all(torch.equal(one, same[key]) for key, one in tensors.items())
        named = names()
        os.chdir("/")
        pack(home, out / "home.tar.xz")
    for name, step in steps.items():
        expected["runs"][name]["stopped"] = step
    expected = {"made by": about, **expected, "names": named}
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    save_file({key: value.contiguous() for key, value in tensors.items()}, out / "expected.safetensors")
    (out / "expected.safetensors").chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
