"""Evaluation rows that are training rows are counted by the content of their inputs, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.contracts import Task
from regraft.data.overlap import overlap_note
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store

TRAIN = [("red lamp", "a"), ("blue lamp", "b"), ("old bulb", "a"), ("new bulb", "b")]


def csv(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> str:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


def read(folder: Path, task: str, **data: Any) -> Snapshot:
    parsed = Task.parse(task)
    assert isinstance(parsed, Task)
    return build_snapshot(open_store(str(folder / "store")), parsed, DataSpec.model_validate(data))


@pytest.mark.parametrize(
    ("evaluation", "overlap"),
    [
        ([("green lamp", "a"), ("grey lamp", "b")], 0),
        ([("green lamp", "a"), ("blue lamp", "b")], 1),
        ([("red lamp", "b"), ("blue lamp", "b"), ("blue lamp", "b"), ("x", "a")], 3),
        (TRAIN, 4),
    ],
)
def test_texts_are_compared_whatever_their_labels(
    tmp_path: Path, evaluation: list[tuple[str, str]], overlap: int
) -> None:
    found = read(
        tmp_path,
        "text-classification",
        train=csv(tmp_path / "train.csv", TRAIN),
        eval=csv(tmp_path / "eval.csv", evaluation),
    )
    assert found.overlap == overlap
    said = [note for note in found.notes if "training row" in note]
    assert bool(said) == bool(overlap)
    if overlap:
        assert f"{overlap} of {len(evaluation)} evaluation rows" in said[0]


def test_other_columns_count_as_inputs_too(tmp_path: Path) -> None:
    train = [("one", "two", "a"), ("three", "four", "b")]
    evaluation = [("one", "two", "b"), ("one", "four", "a"), ("three", "four", "b")]
    found = read(
        tmp_path,
        "text-pair-classification",
        train=csv(tmp_path / "train.csv", train, "text,pair,label"),
        eval=csv(tmp_path / "eval.csv", evaluation, "text,pair,label"),
    )
    assert found.overlap == 2


def test_rows_that_are_left_out_do_not_count(tmp_path: Path) -> None:
    evaluation = [("red lamp", "unseen"), ("blue lamp", "b"), ("x", "a")]
    found = read(
        tmp_path,
        "text-classification",
        train=csv(tmp_path / "train.csv", TRAIN),
        eval=csv(tmp_path / "eval.csv", evaluation),
        bad_rows="skip",
    )
    assert len(found.eval) == 2 and found.overlap == 1


def test_a_share_of_the_rows_has_no_copies_of_the_others(tmp_path: Path) -> None:
    rows = [(f"lamp {number % 40}", "ab"[number % 2]) for number in range(200)]
    found = read(tmp_path, "text-classification", train=csv(tmp_path / "train.csv", rows), eval=0.3)
    assert found.overlap == 0


def test_pictures_are_compared_whatever_their_names(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)) for _ in range(5)]
    for side, chosen in (("train", (0, 1, 2)), ("eval", (2, 3, 4))):
        for number in chosen:
            folder = tmp_path / side / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pictures[number].save(folder / f"{side} {number}.png")
    found = read(tmp_path, "image-classification", train=str(tmp_path / "train"), eval=str(tmp_path / "eval"))
    assert found.overlap == 1


def test_one_row_is_said_in_the_singular() -> None:
    assert overlap_note(0, 9) == ()
    (text,) = overlap_note(1, 9)
    assert text.startswith("1 of 9 evaluation rows is a training row too")
