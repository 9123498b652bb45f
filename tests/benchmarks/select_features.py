"""Frozen features of sets of rows by several bases, computed once and kept; shared by the benchmarks of selection.

python tests/benchmarks/select_features.py [SET ...]

Bases are MiniLM and ImageNet's MobileNets, cut at several layers, and the same with random weights. Settings of
`regraft.selection` are changed by the development sets alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapt_features import MINILM, MOBILENET, sst2, tickets
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from trained import SHARED

from regraft.bases.locate import locate
from regraft.selection.score import FeatureTarget, TargetKind

KEPT = Path(tempfile.gettempdir()) / "regraft-select-features"
MOBILENET_V2 = SHARED / "models" / "tf2_mobilenet_v2_1.0_224"
RANDOM = "random"
"""What the names of bases with random weights begin with."""
DEVELOPMENT = ("amazon", "amazon-ratings", "mnist")
JUDGING = ("hymenoptera", "sst2", "tickets", "pneumonia")
FRESH = ("usps", "tweets", "movies")
"""Sets that were read once, after a setting had been changed in view of those that judged before."""
Batches = Callable[[torch.nn.Module], Iterator[list[Tensor]]]
"""Pooled outputs of the layers of a model, batch by batch."""


@dataclass(frozen=True, eq=False)
class KeptSet:
    """Features of a set by each base, its labels, and how many of the rows at its end are those that judge."""

    features: dict[str, NDArray[np.float64]]
    target: FeatureTarget
    judges: int


def kept_set(name: str) -> KeptSet:
    """Return a set from the folder of kept features, made if it is not there."""
    path = KEPT / f"{name}.npz"
    if not path.is_file():
        target, judges, bases = SETS[name](name)
        print(f"{name}: {len(target)} rows", flush=True)
        features = dict(bases)
        KEPT.mkdir(exist_ok=True)
        extra = {} if target.groups is None else {"groups": target.groups}
        arrays = {f"base {base}": found.astype(np.float32) for base, found in features.items()}
        np.savez(path, values=target.values, kind=str(target.kind), judges=judges, **arrays, **extra)
    with np.load(path) as found:
        groups = found.get("groups")
        target = FeatureTarget(TargetKind(str(found["kind"])), found["values"], groups)
        bases = {key[5:]: found[key].astype(np.float64) for key in found if key.startswith("base ")}
        return KeptSet(bases, target, int(found["judges"]))


def texts(rows: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield MiniLM's mean-pooled features at four layers, and those of its random weights at the last."""
    from transformers import AutoModel, AutoTokenizer

    place = locate(MINILM).path
    tokenizer = AutoTokenizer.from_pretrained(place)
    order = np.argsort([len(row) for row in rows], kind="stable")
    layers = (1, 2, 4, 6)

    def batches(model: torch.nn.Module) -> Iterator[list[Tensor]]:
        for start in range(0, len(order), 64):
            chosen = [rows[at] for at in order[start : start + 64]]
            batch = tokenizer(chosen, padding=True, truncation=True, max_length=64, return_tensors="pt")
            hidden = model(**batch, output_hidden_states=True).hidden_states
            mask = batch["attention_mask"][..., None]
            yield [(hidden[layer] * mask).sum(1) / mask.sum(1) for layer in layers]

    names = [f"minilm-{layer}" for layer in layers]
    for name, found in both(AutoModel.from_pretrained(place, add_pooling_layer=False), names, batches):
        yield name, found[np.argsort(order)]


def pictures(
    shown: Sequence[Any], place: Path, names: Sequence[str], size: int
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield a MobileNet's pooled features at three layers, and those of its random weights at the last."""
    from transformers import AutoModel

    def batches(model: torch.nn.Module) -> Iterator[list[Tensor]]:
        for start in range(0, len(shown), 32):
            images = [
                Image.fromarray(one).convert("RGB").resize((size, size), Image.BILINEAR)
                for one in shown[start : start + 32]
            ]
            batch = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
            hidden = model(batch.float() / 127.5 - 1, output_hidden_states=True).hidden_states
            yield [hidden[len(hidden) * part // 3 - 1].mean((2, 3)) for part in (1, 2, 3)]

    yield from both(AutoModel.from_pretrained(place), names, batches)


def both(model: torch.nn.Module, names: Sequence[str], batches: Batches) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the features of each layer, and of the last one with random weights."""
    yield from zip(names, pooled(model, batches), strict=True)
    torch.manual_seed(0)
    random = type(model)(model.config)  # type: ignore[arg-type,call-arg]
    yield f"{RANDOM}-{names[-1]}", pooled(random, batches)[-1]


def pooled(model: torch.nn.Module, batches: Batches) -> list[NDArray[np.float64]]:
    """Return the features of each layer."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        parts = list(batches(model.eval()))
    return [torch.cat(layer).double().numpy() for layer in zip(*parts, strict=True)]


Made = tuple[FeatureTarget, int, Iterator[tuple[str, NDArray[np.float64]]]]


def classes(labels: Sequence[Any]) -> FeatureTarget:
    """Return labels of any type as classes."""
    return FeatureTarget(TargetKind.CLASSES, np.unique(np.asarray(labels), return_inverse=True)[1])


def labelled_texts(name: str) -> Made:
    """Return SST-2, 3,500 rows of it, or tickets: training rows, then those that judge."""
    train, judges = (
        (sst2("train")[:2000], sst2("test")[:1500]) if name == "sst2" else (tickets("train"), tickets("eval"))
    )
    if name == "tickets":
        order = np.random.default_rng(0).permutation(len(train))
        train = [train[at] for at in order]
    return classes([label for _, label in train + judges]), len(judges), texts([text for text, _ in train + judges])


def ratings(name: str) -> Made:
    """Return half of the sentences of product reviews with their ratings; a review is a group."""
    place = SHARED / "data" / "sentiment_multidomain" / "amazonReviewSnippets_GroundTruth.txt"
    rows = [line.split("\t") for line in place.read_text(encoding="utf-8").splitlines()]
    groups = np.unique([row[0].partition("_")[0] for row in rows], return_inverse=True)[1]
    order = np.argsort(np.random.default_rng(0).permutation(groups.max() + 1)[groups], kind="stable")[: len(rows) // 2]
    rows, groups = [rows[at] for at in order], groups[order]
    values = np.array([float(row[1]) for row in rows])
    return FeatureTarget(TargetKind.NUMBERS, values, groups), len(rows) // 3, texts([row[2] for row in rows])


def other_ratings(name: str) -> Made:
    """Return 1,500 tweets with their ratings, or 1,500 clearly positive and negative sentences of film reviews."""
    file = "tweets_GroundTruth.txt" if name == "tweets" else "movieReviewSnippets_GroundTruth.txt"
    written = (SHARED / "data" / "sentiment_multidomain" / file).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in written]
    rows = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
    if name == "movies":
        rows = [row for row in rows if abs(float(row[1])) > 0.5]
    values = np.array([float(row[1]) for row in rows[:1500]])
    target = classes(values > 0) if name == "movies" else FeatureTarget(TargetKind.NUMBERS, values)
    return target, 500, texts([row[2] for row in rows[:1500]])


def clear_ratings(name: str) -> Made:
    """Return the sentences that are clearly positive or negative."""
    every = kept_set("amazon-ratings")
    values = every.target.values[:, 0]
    rows = np.flatnonzero(np.abs(values) > 0.5)
    assert every.target.groups is not None
    target = FeatureTarget(TargetKind.CLASSES, values[rows] > 0, every.target.groups[rows])
    return target, len(rows) // 3, iter([(base, found[rows]) for base, found in every.features.items()])


def digits(name: str) -> Made:
    """Return 3,000 digits of MNIST or of USPS."""
    file = "mnist_20k.npz" if name == "mnist" else "usps.npz"
    with np.load(SHARED / "data" / "digits_mnist_usps" / file) as found:
        chosen = np.random.default_rng(0).permutation(len(found["y_train"]))[:3000]  # the file is sorted by digit
        shown, labels = found["x_train"][chosen], found["y_train"][chosen]
    return classes(labels), 1000, pictures(shown, MOBILENET, ("v1-early", "v1-middle", "v1"), 96)


def pneumonia(name: str) -> Made:
    """Return chest x-rays: 2,000 of the training file, then those of the test file."""
    with np.load(SHARED / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as found:
        chosen = np.random.default_rng(0).permutation(len(found["train_labels"]))[:2000]
        shown = np.concatenate([found["train_images"][chosen], found["test_images"]])
        labels = np.concatenate([found["train_labels"][chosen], found["test_labels"]]).ravel()
    return classes(labels), 624, mobilenets(shown, 96)


def hymenoptera(name: str) -> Made:
    """Return photos of ants and bees: those that train, then those that judge."""
    files = [sorted((SHARED / "data" / "hymenoptera" / side).rglob("*.jpg")) for side in ("train", "val")]
    paths = [files[0][at] for at in np.random.default_rng(0).permutation(len(files[0]))] + files[1]
    shown = [np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.BILINEAR)) for path in paths]
    return classes([path.parent.name for path in paths]), len(files[1]), mobilenets(shown, 160)


def mobilenets(shown: Sequence[Any], size: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the features of both MobileNets."""
    yield from pictures(shown, MOBILENET, ("v1-early", "v1-middle", "v1"), 128)
    yield from pictures(shown, MOBILENET_V2, ("v2-early", "v2-middle", "v2"), size)


SETS: dict[str, Callable[[str], Made]] = {
    "amazon": clear_ratings,
    "amazon-ratings": ratings,
    "mnist": digits,
    "usps": digits,
    "tweets": other_ratings,
    "movies": other_ratings,
    "hymenoptera": hymenoptera,
    "sst2": labelled_texts,
    "tickets": labelled_texts,
    "pneumonia": pneumonia,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[1:] or SETS:
        kept_set(each)
