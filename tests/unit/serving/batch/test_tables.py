"""Predictions are written as tables of text, and rows come from tables in memory."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import regraft
from doubles.fake_power_cut import FakePowerCut, dying
from regraft.errors import RequestError
from regraft.serving.batch.session import BatchRequest, predict_here
from unit.serving.tiny import publish

AWKWARD = [
    "plain, with a comma",
    'a "quoted" word',
    "two\nlines",
    "a\rreturn",
    "=1+1",
    "naïve ☃",
    " spaces ",
    "tab\there",
]


@pytest.fixture
def published(store: Path, bases: dict[str, Path]) -> Path:
    publish(store, bases["cls"], "text-classification", "lora")
    return store


def predicted(published: Path, rows: list[dict[str, Any]], out: str, **more: Any) -> Path:
    path = published.parent / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options: dict[str, Any] = {"block_rows": 3, "device": "cpu", **more}
    predict_here(BatchRequest("tiny", str(path), str(path.parent / out), str(published), **options))
    return path.parent / out


ROWS = [{"text": text, "id": number, "more": {"a": [number]}} for number, text in enumerate(AWKWARD)]


@pytest.mark.parametrize("suffix, delimiter", [("csv", ","), ("tsv", "\t")])
def test_a_table_holds_what_json_lines_hold(suffix: str, delimiter: str, published: Path) -> None:
    wanted = [json.loads(line) for line in predicted(published, ROWS, "out.jsonl").read_text().splitlines()]
    with predicted(published, ROWS, f"out.{suffix}").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file, delimiter=delimiter, strict=True))
    assert list(found[0]) == ["row", "text", "id", "more", "answer.label", "answer.score", "answer.scores"]
    for line, row in zip(wanted, found, strict=True):
        assert (row["text"], row["id"], json.loads(row["more"])) == (line["text"], str(line["id"]), line["more"])
        assert (row["answer.label"], float(row["answer.score"])) == (line["answer"]["label"], line["answer"]["score"])
        assert json.loads(row["answer.scores"]) == line["answer"]["scores"]


def test_pandas_reads_it_back(published: Path) -> None:
    frame = pd.read_csv(predicted(published, ROWS, "out.csv"))
    assert frame["text"].tolist() == [row["text"] for row in ROWS]
    assert frame["answer.score"].dtype == "float64"


def test_rows_that_fail_and_columns_that_come_late_have_their_place(published: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a"},
        {"text": " "},
        {"text": "b"},
        {"text": "c", "late": True, "none": None},
    ]
    path = predicted(published, rows, "out.csv", bad_rows="skip")
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    names = list(found[0])
    assert names[:2] == ["row", "text"] and names[-1] == "error" and {"late", "none"} < set(names)
    assert "text is empty" in found[1]["error"] and found[1]["answer.label"] == ""
    assert (found[3]["late"], found[3]["none"], found[0]["late"], found[3]["error"]) == ("true", "", "", "")


def test_cut_off_at_any_write_the_same_command_goes_on_to_the_same_bytes(published: Path) -> None:
    whole = predicted(published, ROWS, "whole.csv").read_bytes()
    for at in (2, 5, 8):  # a block of the input, the job, the last part
        with dying(at, kill=False), pytest.raises(FakePowerCut):
            predicted(published, ROWS, "out.csv", features=False)
        assert predicted(published, ROWS, "out.csv").read_bytes() == whole
        (published.parent / "out.csv").unlink()


def test_an_unfinished_output_of_another_form_is_not_taken_over(published: Path) -> None:
    with dying(8, kill=False), pytest.raises(FakePowerCut):
        predicted(published, ROWS, "out.csv")
    (published.parent / ".out.csv.unfinished").rename(published.parent / ".out.tsv.unfinished")
    with pytest.raises(RequestError, match="output was csv, now tsv"):
        predicted(published, ROWS, "out.tsv")


def test_vectors_are_not_written_as_text(published: Path) -> None:
    with pytest.raises(RequestError, match=r"ends with \.parquet"):
        predicted(published, ROWS, "out.csv", features=True)


@pytest.mark.parametrize("kind", [pd.DataFrame, pa.Table.from_pylist, list, tuple])
def test_a_table_in_memory_is_an_input(kind: Any, published: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "id": number} for number, text in enumerate(AWKWARD)]
    wanted = predicted(published, rows, "out.jsonl").read_text()
    regraft.predict("tiny", kind(rows), tmp_path / "mine.jsonl", store=str(published), workers=0)
    assert [json.loads(line)["answer"]["label"] for line in (tmp_path / "mine.jsonl").read_text().splitlines()] == [
        json.loads(line)["answer"]["label"] for line in wanted.splitlines()
    ]


@pytest.mark.parametrize("given", [7, None, ["a text"], []])
def test_an_input_that_is_no_table_is_refused(given: Any, published: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="allowed is a path, a URL, a table"):
        regraft.predict("tiny", given, tmp_path / "mine.jsonl", store=str(published), workers=0)
