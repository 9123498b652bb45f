"""Rows of `data.test`: a third side of the split that moves no row of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.contracts import Task
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import DataError, SpecError
from regraft.spec.run import RunSpec
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from support.tiny import document

ROWS = [(f"lamp number {number}", "ab"[number % 2]) for number in range(60)]


def csv(path: Path, rows: list[tuple[str, ...]], header: str = "text,label") -> str:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


def read(folder: Path, **data: Any) -> Snapshot:
    task = Task.parse("text-classification")
    assert isinstance(task, Task)
    return build_snapshot(open_store(str(folder / "store")), task, DataSpec.model_validate(data))


def texts(snapshot: Snapshot, side: str) -> list[str]:
    rows = snapshot.sides[side]
    return [rows.stored(index)["text"] for index in range(len(rows))]


def test_a_share_is_taken_from_the_training_rows_alone(tmp_path: Path) -> None:
    train = csv(tmp_path / "train.csv", ROWS)
    before, after = read(tmp_path, train=train, eval=0.2), read(tmp_path, train=train, eval=0.2, test=0.2)
    assert texts(after, "eval") == texts(before, "eval"), "no evaluation row moves"
    assert sorted(texts(after, "train") + texts(after, "test")) == sorted(texts(before, "train"))
    assert set(texts(after, "test")) == set(texts(read(tmp_path, train=train, eval=0.2, test=0.2), "test"))
    assert before.fingerprint != after.fingerprint and before.test is None


def test_the_side_of_a_row_does_not_depend_on_the_other_rows(tmp_path: Path) -> None:
    all_rows = read(tmp_path, train=csv(tmp_path / "all.csv", ROWS), test=0.3)
    some = read(tmp_path, train=csv(tmp_path / "some.csv", ROWS[::-1][:40]), test=0.3)
    kept = {text for text, _ in ROWS[::-1][:40]}
    assert set(texts(some, "test")) == set(texts(all_rows, "test")) & kept


def test_a_file_leaves_the_other_sides_as_they_are(tmp_path: Path) -> None:
    train, test = csv(tmp_path / "train.csv", ROWS[:40]), csv(tmp_path / "test.csv", ROWS[40:])
    before, after = read(tmp_path, train=train), read(tmp_path, train=train, test=test)
    assert texts(after, "test") == [text for text, _ in ROWS[40:]]
    assert [texts(after, side) for side in ("train", "eval")] == [texts(before, side) for side in ("train", "eval")]
    assert after.meta["rows"] == after.counts
    assert after.test_overlap == {"train": 0, "eval": 0} and before.test_overlap is None


def test_a_group_is_on_one_side(tmp_path: Path) -> None:
    rows = [(text, label, f"p{number // 3}") for number, (text, label) in enumerate(ROWS)]
    train = csv(tmp_path / "train.csv", rows, "text,label,patient")
    found = read(tmp_path, train=train, eval=0.3, test=0.3, group="patient")
    sides = [{int(text.split()[-1]) // 3 for text in texts(found, side)} for side in ("train", "eval", "test")]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 20


def test_given_test_rows_of_a_group_of_another_side_are_refused(tmp_path: Path) -> None:
    rows = [(text, label, f"p{number // 3}") for number, (text, label) in enumerate(ROWS)]
    train = csv(tmp_path / "train.csv", rows, "text,label,patient")
    test = csv(tmp_path / "test.csv", [("new", "a", "p0")], "text,label,patient")
    with pytest.raises(DataError, match=r"and in the test rows.*the test would use rows"):
        read(tmp_path, train=train, eval=0.3, test=test, group="patient")


def test_rows_of_other_sides_are_counted(tmp_path: Path) -> None:
    files = {
        "train": csv(tmp_path / "train.csv", ROWS[:20]),
        "eval": csv(tmp_path / "eval.csv", ROWS[20:30]),
        "test": csv(tmp_path / "test.csv", ROWS[18:24]),
    }
    found = read(tmp_path, **files)
    assert found.test_overlap == {"train": 2, "eval": 4} and found.overlap == 0
    said = " ".join(found.notes)
    assert "2 of 6 test rows are training rows too" in said and "4 of 6 test rows are evaluation rows too" in said


def test_a_label_of_the_test_share_alone_gets_a_training_row(tmp_path: Path) -> None:
    rows = [*ROWS, *((f"odd bulb {number}", f"rare{number}") for number in range(12))]
    found = read(tmp_path, train=csv(tmp_path / "train.csv", rows), eval=0.2, test=0.4)
    known = {found.train.stored(index)["label"] for index in range(len(found.train))}
    assert {f"rare{number}" for number in range(12)} <= known
    assert any("data.test as a share" in note for note in found.notes)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [([("x", "c")], "is in the test rows and in no training row"), ([], "holds no rows")],
)
def test_test_rows_that_cannot_be_measured_are_refused(
    tmp_path: Path, rows: list[tuple[str, str]], problem: str
) -> None:
    train, test = csv(tmp_path / "train.csv", ROWS), csv(tmp_path / "test.csv", rows)
    with pytest.raises(DataError, match=problem):
        read(tmp_path, train=train, test=test)


def test_a_share_that_leaves_no_test_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.test: a share of 0.001 of \d+ rows leaves none to test on"):
        read(tmp_path, train=csv(tmp_path / "train.csv", ROWS), test=0.001)


def test_bad_test_rows_are_counted_apart(tmp_path: Path) -> None:
    test = csv(tmp_path / "test.csv", [("x", "a"), ("y", "c"), ("z", "")])
    found = read(tmp_path, train=csv(tmp_path / "train.csv", ROWS), test=test, bad_rows="skip")
    assert found.counts["test"] == 1 and found.skipped["test"] == 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"test": 1.5}, "data.test"),
        ({"eval": 0.5, "test": 0.5}, "leave no rows to train on"),
        ({"test": "SAME"}, "train names the same rows"),
        ({"test": True}, "data.test"),
    ],
)
def test_a_wrong_key_is_one_message(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    written = document(tmp_path, rows=24)
    named = {key: written["data"]["train"] if value == "SAME" else value for key, value in change.items()}
    with pytest.raises(SpecError, match=problem) as caught:
        RunSpec.resolve({**written, "data": {**written["data"], **named}})
    assert len(caught.value.problems) == 1


def test_the_name_of_a_run_without_test_rows_is_what_it_was(tmp_path: Path) -> None:
    written = document(tmp_path, rows=24)
    plain = RunSpec.resolve(written)
    absent = RunSpec.resolve({**written, "data": {**written["data"], "test": None}})
    given = RunSpec.resolve({**written, "data": {**written["data"], "test": 1e-1}})
    assert plain.run == absent.run != given.run
    assert "test" not in plain.model_dump(mode="json")["data"]
