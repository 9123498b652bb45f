"""`regraft predict` prints one object or a few lines, and errors with what to do."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from doubles.fake_training import Regraft
from support.tiny import WORDS, tiny_bert
from unit.serving.tiny import publish


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a base, a store with a model on it, and rows."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    tiny_bert(tmp_path / "base")
    publish(tmp_path / "regraft-store", tmp_path / "base", "text-classification", "full")
    rows = [{"text": " ".join(WORDS[number : number + 4]), "id": number} for number in range(9)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_json_is_one_object_with_rows_out_and_seconds(there: Path, regraft: Regraft) -> None:
    result = regraft("predict", "tiny@v1", "in.jsonl", "--output", "out.jsonl", "--workers", "0", "--json")
    assert result.code == 0, result.err
    assert result.document == {"rows": 9, "out": str(there / "out.jsonl"), "seconds": result.document["seconds"]}
    assert [json.loads(line)["id"] for line in (there / "out.jsonl").read_text().splitlines()] == list(range(9))


def test_people_read_where_it_is_and_how_long_it_took(there: Path, regraft: Regraft) -> None:
    result = regraft(
        "predict", str(there / "base"), "in.jsonl", "--features", "--output", "v.parquet", "--workers", "0"
    )
    assert result.code == 0, result.err
    assert f"{there / 'v.parquet'} holds the vectors to 9 rows" in result.out and "time" in result.out
    assert "computing in " in result.out and result.err == ""
    assert pq.read_table(there / "v.parquet").column_names == ["row", "features"]


def test_rows_that_were_skipped_are_counted(there: Path, regraft: Regraft) -> None:
    with (there / "in.jsonl").open("a") as file:
        file.write('{"text": " "}\n')
    again = ["predict", "tiny", "in.jsonl", "--output", "out.jsonl", "--workers", "0"]
    result = regraft(*again)
    assert result.code == 2 and "in.jsonl:10: text is empty" in result.err and "--bad-rows skip" in result.err
    result = regraft(*again, "--bad-rows", "skip")
    assert result.code == 0 and "1, each explained in its row" in result.out


@pytest.mark.parametrize(
    "more, message",
    [
        ([], "the following arguments are required: --output"),
        (["--output", "out.txt"], "allowed are names that end with .jsonl, .csv, .tsv or .parquet"),
        (["--output", "out.jsonl", "--bad-rows", "leave"], "'leave' is written; allowed are fail, skip"),
        (["--output", "out.parquet", "--dtype", "fp8"], "'fp8' is written; allowed are auto, fp32, bf16"),
        (["--output", "out.jsonl", "--workers", "many"], "'many' is written; allowed is a whole number"),
        (["--output", "out.jsonl", "--columns", "text"], "allowed is COLUMN=NAME-IN-THE-FILE"),
        (["--output", "out.jsonl", "--columns", "txt=id"], "Did you mean 'text'"),
        (["--output", "out.jsonl", "--format", "cvs"], "Did you mean 'csv'"),
        (["--output", "out.jsonl", "--format", "{type: csv, delimitr: x}"], "delimitr"),
        (["--output", "nowhere/out.jsonl"], "there is no folder"),
    ],
)
def test_what_is_typed_wrong_is_said(more: list[str], message: str, there: Path, regraft: Regraft) -> None:
    result = regraft("predict", "tiny", "in.jsonl", "--workers", "0", *more)
    assert result.code == 2 and message in result.err
    assert not [path for path in there.iterdir() if path.name.startswith((".", "out"))]


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Pipe these bytes into the command."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


@pytest.mark.parametrize(
    "form, content",
    [
        ("jsonl", b'{"text": "a lamp", "id": 1}\n{"text": "a phone", "id": 2}\n'),
        ("csv", b"text,id\na lamp,1\na phone,2\n"),
        ('{type: csv, delimiter: "\\t"}', b"text\tid\na lamp\t1\na phone\t2\n"),
    ],
)
def test_rows_are_read_from_standard_input(
    form: str, content: bytes, there: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    piped(monkeypatch, content)
    result = regraft("predict", "tiny", "-", "--format", form, "--output", "out.csv", "--workers", "0")
    assert result.code == 0, result.err
    with (there / "out.csv").open(newline="") as file:
        assert [(row["text"], row["id"]) for row in csv.DictReader(file)] == [("a lamp", "1"), ("a phone", "2")]


def test_an_error_in_standard_input_names_it_and_the_line(
    there: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["predict", "tiny", "-", "--format", "jsonl", "--output", "out.jsonl", "--workers", "0"]
    for content, message in (
        (b'{"text": "a"}\n{"text": " "}\n', "standard input:2: text is empty"),
        (b'{"txt": "a"}\n', "standard input: has no column 'text'"),
        (b"", "holds no rows"),
    ):
        piped(monkeypatch, content)
        result = regraft(*command)
        assert result.code == 2 and message in result.err, result.err
    piped(monkeypatch, b'{"text": "a"}\n{"text": " "}\n')
    assert regraft(*command, "--bad-rows", "skip").code == 0
    lines = [json.loads(line) for line in (there / "out.jsonl").read_text().splitlines()]
    assert lines[1]["error"] == "standard input:2: text is empty: write one, or leave the row out"


def test_standard_input_needs_a_format_and_a_command_that_runs_here(there: Path, regraft: Regraft) -> None:
    result = regraft("predict", "tiny", "-", "--output", "out.jsonl", "--workers", "0")
    assert result.code == 2 and "add --format jsonl" in result.err
    result = regraft("predict", "tiny", "-", "--output", "out.jsonl", "--address", "http://head:8265")
    assert result.code == 2 and "name a file" in result.err
