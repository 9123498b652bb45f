"""An evaluation says how many of its rows training has seen, and how the score stands to the baselines."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from regraft.evaluation.baseline_comparison import baseline_text, baseline_verdicts_here
from regraft.report.intervals import Intervals
from regraft.store.objects import open_store
from regraft.store.registry import Registry

ACCURACY = {"name": "accuracy", "mode": "max"}


def mixed(trained: Path, folder: Path, *, train: int, other: int) -> Path:
    """Write a file with some rows of training and some others."""
    header, *rows = (trained / "train.csv").read_text().splitlines()
    path = folder / "mixed.csv"
    path.write_text("\n".join([header, *rows[:train], *(f"quite another text {n},light" for n in range(other))]) + "\n")
    return path


def test_rows_of_training_are_counted(evaluated: Any, trained: Path, tmp_path: Path) -> None:
    document = evaluated(mixed(trained, tmp_path, train=4, other=3)).document
    assert document["overlap"]["train"] == 4 and document["overlap"]["chosen_by"] == 0
    assert any("4 of the 7 rows here were training rows of this version" in note for note in document["notes"])


def test_the_page_says_it(evaluated: Any, trained: Path, tmp_path: Path) -> None:
    text = evaluated(mixed(trained, tmp_path, train=4, other=3)).html.read_text()
    assert "4 of the 7 rows here were training rows of this version" in text
    assert text.count("4 of the 7 rows here") == 1


def test_the_rows_that_chose_the_checkpoint_are_named(evaluated: Any, trained: Path) -> None:
    document = evaluated(trained / "eval.csv").document
    assert document["overlap"]["chosen_by"] == document["data"]["rows"]
    assert "the evaluation rows by which its checkpoint was chosen" in document["overlap"]["sentence"]


def test_new_rows_are_said_to_be_new_and_no_note_is_made(evaluated: Any, trained: Path, tmp_path: Path) -> None:
    document = evaluated(mixed(trained, tmp_path, train=0, other=5)).document
    assert document["overlap"] == {
        "train": 0,
        "chosen_by": 0,
        "sentence": "No row here was a training row of this version",
    }
    assert document["notes"] == []


def test_without_the_rows_of_training_nothing_is_claimed(trained: Path, tmp_path: Path) -> None:
    from regraft.evaluation.evaluate import evaluate
    from regraft.evaluation.options import EvaluationOptions

    shutil.copytree(trained / "store", tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    fingerprint = Registry(store).version("tiny").meta["lineage"]["data"]["fingerprint"]
    shutil.rmtree(tmp_path / "store" / "data" / fingerprint)
    options = EvaluationOptions(output=tmp_path / "out", resamples=0)
    document = evaluate(store, "tiny", str(trained / "rows.csv"), options=options).document
    assert document["overlap"]["train"] is None
    assert "is not known: the store no longer holds the rows" in document["notes"][0]


def test_the_recorded_interval_counts_on_the_same_rows(evaluated: Any, trained: Path) -> None:
    found = evaluated(trained / "eval.csv", resamples=200).document["beside_baselines"]
    assert {verdict["baseline"] for verdict in found["verdicts"]} == {"majority", "nearest_centroid"}
    assert all(verdict["low"] is not None for verdict in found["verdicts"])
    assert "this model is" in found["sentence"] and "measured at training" not in found["sentence"]


META = {
    "baselines": {"nearest_centroid": {"accuracy": 0.948}},
    "score": ACCURACY,
    "lineage": {"data": {"rows": {"eval": 153}}},
    "gain": {"mean": -0.04, "low": -0.07, "high": -0.01},
}


@pytest.mark.parametrize(
    ("value", "here", "outcome"),
    [(0.80, (0.74, 0.86), "worse"), (0.92, (0.88, 0.96), "not distinguishable"), (0.999, (0.99, 1.0), "better")],
)
def test_on_other_rows_both_uncertainties_count(value: float, here: tuple[float, float], outcome: str) -> None:
    intervals = Intervals({"accuracy": here}, 1000)
    (verdict,) = found = baseline_verdicts_here(META, ACCURACY, value, intervals, same_rows=False)
    assert verdict.outcome == outcome and verdict.high is not None and verdict.low is not None
    assert verdict.high - verdict.low > here[1] - here[0]
    assert "measured at training, on its own evaluation rows" in baseline_text(found, "accuracy", same_rows=False)


def test_without_intervals_only_the_difference_is_said() -> None:
    (verdict,) = baseline_verdicts_here(META, ACCURACY, 0.9, Intervals(), same_rows=False)
    assert verdict.outcome == "below"
