"""Pictures among the data that cost too much: a command names them, or leaves them out and counts them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.errors import DataError
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from support.costly_pictures import chunks, false_size, large_scans, layers, metadata, scans, thin, tiles
from support.image_bases import coloured, tiny_resnet

BOMBS: tuple[Callable[[random.Random], bytes], ...] = (thin, scans, large_scans, tiles, chunks)
DOUBTFUL: tuple[Callable[[random.Random], bytes], ...] = (layers, false_size, metadata)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and pictures of both sides with a handful that cost too much among them."""
    root = tmp_path_factory.mktemp("costly")
    tiny_resnet(root / "base")
    for side, seed in (("train", 0), ("eval", 1)):
        coloured(root / side, each=4, seed=seed)
    for make in BOMBS:
        (root / "train" / "red" / f"{make.__name__}.png").write_bytes(make(random.Random(5)))
    (root / "eval" / "red" / "thin.png").write_bytes(thin(random.Random(6)))
    return root


def spec(folder: Path, store: Path, bad_rows: str) -> RunSpec:
    return RunSpec.resolve({
        "name": "r", "base": str(folder / "base"), "task": "image-classification", "method": "feature-extraction",
        "data": {"train": str(folder / "train"), "eval": str(folder / "eval"), "bad_rows": bad_rows},
        "training": {"epochs": 1, "batch_size": 4, "lr": 1e-3}, "compute": {"workers": 0}, "store": str(store),
    })  # fmt: skip


def test_training_names_costly_pictures(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be used") as refused:
        train_local(spec(folder, tmp_path / "store", "fail"))
    assert all(f"{make.__name__}.png" in str(refused.value) for make in BOMBS)


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    """The store of a run that left the costly pictures out."""
    train_local(spec(folder, folder / "store", "skip"))
    return folder / "store"


def rows(folder: Path, makers: tuple[Callable[[random.Random], bytes], ...]) -> Path:
    """Write a table of good pictures, and of others between them."""
    good = sorted((folder / "eval").glob("blue/*.png"))
    lines = [(path, "blue") for path in good]
    for number, make in enumerate(makers):
        path = folder / f"asked-{make.__name__}.png"
        path.write_bytes(make(random.Random(7)))
        lines.insert(2 * number + 1, (path, "red"))
    table = folder / f"{len(makers)}-{makers[0].__name__}.csv"
    table.write_text("image,label\n" + "".join(f"{path},{label}\n" for path, label in lines))
    return table


def test_training_and_prediction_leave_costly_pictures_out(folder: Path, store: Path, tmp_path: Path) -> None:
    table, output = rows(folder, BOMBS), tmp_path / "answers.jsonl"
    with pytest.raises(DataError, match="cannot be used"):
        regraft.predict("r", table, output, store=store, workers=0)
    regraft.predict("r", table, output, store=store, workers=0, bad_rows="skip", fresh=True)
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) == 4 + len(BOMBS)
    assert [line.get("error", "") != "" for line in lines].count(True) == len(BOMBS)
    assert all("cannot be used" in line["error"] for line in lines if line.get("error"))


def test_an_evaluation_leaves_costly_pictures_out(folder: Path, store: Path, tmp_path: Path) -> None:
    table = rows(folder, BOMBS)
    with pytest.raises(DataError, match="cannot be used"):
        regraft.evaluate("r", table, tmp_path / "a", store=store, resamples=10)
    found = regraft.evaluate("r", table, tmp_path / "b", store=store, resamples=10, bad_rows="skip")
    assert found.document["data"]["rows"] == 4


def test_doubtful_pictures_are_read_or_left_out(folder: Path, store: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    regraft.predict("r", rows(folder, DOUBTFUL), output, store=store, workers=0, bad_rows="skip")
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) == 4 + len(DOUBTFUL)
    assert all(line.get("error") or line["answer"] for line in lines)
