"""Data that do not fit are refused before a run starts, with what was written, what is allowed and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doubles.fake_tasks import Finding, Rating, Seeing, Sorting, Tagging
from regraft.contracts import Source, Task
from regraft.data import locations
from regraft.data.ingest import ingest
from regraft.data.inputs import find_data_files
from regraft.errors import DataError, RegraftError, Unsupported
from regraft.spec.sections import DataSpec
from regraft.store.objects import ObjectStore, open_store
from regraft.tasks.object_detection import ObjectDetection
from regraft.tasks.text_multi_label import TextMultiLabel

GOOD = [{"text": f"row {number}", "label": "ab"[number % 2]} for number in range(40)]


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def refusal(task: Task, folder: Path, rows: list[Any], kind: type[RegraftError] = DataError, **data: Any) -> str:
    """Return the error about a file of these rows."""
    spec = DataSpec.model_validate({"train": lines(folder / "train.jsonl", rows), **data})
    with pytest.raises(kind) as refused:
        ingest(task, spec, folder)
    return str(refused.value).replace(f"{folder}/", "")


def test_a_missing_column_is_named_with_what_there_is_and_the_nearest(tmp_path: Path) -> None:
    error = refusal(Sorting(), tmp_path, [{"txt": "a", "class": "b"}], columns={"label": "klass"})
    assert error == (
        "train.jsonl: has no column 'text' (nearest: 'txt'), 'klass' (nearest: 'class'); it has 'txt', 'class'; "
        "needed are 'text', 'klass': write in data.columns what they are called here, or in data.format how to read "
        "the file (regraft show sources jsonl)"
    )


def test_each_file_of_a_pattern_must_have_the_columns(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", GOOD)
    lines(tmp_path / "b.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match="has no column 'label'") as refused:
        ingest(Sorting(), DataSpec(train=str(tmp_path / "*.jsonl")), tmp_path)
    assert refused.value.where == str(tmp_path / "b.jsonl")


def test_all_problems_are_counted_and_the_first_five_reported(tmp_path: Path) -> None:
    bad = [{"text": "bad", "label": "a"}, {"text": None, "label": "a"}, {"text": "a", "label": " "}, {"text": "a"}]
    error = refusal(Sorting(), tmp_path, [*GOOD, *bad, *bad])
    assert error == (
        "8 rows cannot be used: correct them, leave them out, or write data.bad_rows: skip\n"
        "  - train.jsonl:41: text is bad\n"
        "  - train.jsonl:42: text: is missing\n"
        "  - train.jsonl:43: label: is empty; every row needs a label\n"
        "  - train.jsonl:44: has no 'label'\n"
        "  - train.jsonl:45: text is bad\n"
        "  and 3 more"
    )


def test_a_file_that_breaks_off_is_reported_with_the_rows_before(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,label\nbad,a\nfine,b\n"open')
    with pytest.raises(DataError) as refused:
        ingest(Sorting(), DataSpec(train=str(tmp_path / "train.csv")), tmp_path)
    assert "train.csv:2: text is bad\n" in str(refused.value)
    assert "train.csv:4: is not readable as a table" in str(refused.value)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (Sorting(), {"text": 5, "label": "a"}, "text: is 5 (int); text is wanted"),
        (Sorting(), {"text": "a", "label": 1.5}, "label: is 1.5 (float); a label is text"),
        (Sorting(), {"text": "a", "label": None}, "label: is missing; every row needs a label"),
        (Sorting(), {"text": "a\ud800", "label": "a"}, "holds half a character (a lone surrogate)"),
        (Rating(), {"text": "a", "value": "many"}, "value: is 'many' (str); a finite number is wanted"),
        (Rating(), {"text": "a", "value": float("nan")}, "value: is missing"),
        (Rating(), {"text": "a", "value": 10**400}, "... (int); a finite number is wanted"),
        (Rating(), {"text": "a", "value": True}, "value: is True (bool); a finite number is wanted"),
        (Finding(), {"image": "a.png", "boxes": "[]", "labels": []}, "boxes: is '[]' (str); a list of boxes"),
        (Finding(), {"image": "a.png", "boxes": [[1, 2]], "labels": ["a"]}, "boxes: holds [1, 2] (list); a box is"),
        (Finding(), {"image": "a.png", "boxes": [[1, 2, 3, None]], "labels": ["a"]}, "boxes: is missing"),
        (
            ObjectDetection(),
            {"image": "a.png", "boxes": [], "labels": ["a"]},
            "0 boxes and 1 labels: there must be one label a box",
        ),
        (Finding(), {"image": "a.png", "boxes": [], "labels": 7}, "labels: is 7 (int); a list of labels"),
        (Tagging(), {"tokens": "a b", "tags": ["O", "O"]}, "tokens: is 'a b' (str); a list of words is wanted"),
        (Tagging(), {"tokens": ["a", 2], "tags": ["O", "O"]}, "tokens: holds 2 (int); a word is text"),
        (Tagging(), {"tokens": ["a"], "tags": None}, "tags: is missing"),
        (Tagging(), {"tokens": ["a"], "tags": [""]}, "tags: is empty; every row needs a label"),
        (Seeing(), {"image": None, "label": "a"}, "image: is missing"),
        (Seeing(), {"image": "https://b/a.png", "label": "a"}, "'https://b/a.png' is a URL"),
        (Seeing(), {"image": "s3://b", "label": "a"}, "'s3://b' names no image in S3: names no object"),
        (Seeing(), {"image": "none.png", "label": "a"}, "there is no image none.png"),
        (Seeing(), {"image": "text.png", "label": "a"}, "text.png is not an image that can be read"),
        (Seeing(), {"image": "cut.png", "label": "a"}, "cut.png"),
        (Seeing(), {"image": "bomb.png", "label": "a"}, "bomb.png has more than"),
    ],
)
def test_a_value_of_the_wrong_kind_is_reported_by_file_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, row: dict[str, Any], message: str
) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (90, 40)).save(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    error = refusal(task, tmp_path, [row])
    assert error.startswith("train.jsonl:1: ")
    assert message in error


def test_what_holds_no_rows_is_refused(tmp_path: Path) -> None:
    problem = "holds no rows: add some, or name another file"
    assert refusal(Sorting(), tmp_path, []) == f"train.jsonl: {problem}"
    empty = lines(tmp_path / "empty.jsonl", [])
    assert refusal(Sorting(), tmp_path, GOOD, eval=empty) == f"empty.jsonl: {problem}"
    assert refusal(Sorting(), tmp_path, [], eval=lines(tmp_path / "good.jsonl", GOOD)) == f"train.jsonl: {problem}"


@pytest.mark.parametrize(("share", "side"), [(1e-9, "evaluate on"), (1 - 1e-9, "train on")])
def test_a_share_that_leaves_a_side_empty_is_refused(tmp_path: Path, share: float, side: str) -> None:
    error = refusal(Sorting(), tmp_path, GOOD, eval=share)
    assert error.startswith(f"data.eval: a share of {share} of 40 rows leaves none to {side}: write another share")


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    error = refusal(Sorting(), tmp_path, [{"text": str(n), "label": "a"} for n in range(9)], eval=0.5)
    assert "training rows have the label 'a': a classifier needs two; add rows of another label" in error


def test_boxes_without_any_label_are_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "boxes": [], "labels": []}]
    error = refusal(Finding(), tmp_path, rows, eval=lines(tmp_path / "held.jsonl", rows))
    assert "no training row has any label" in error


def test_a_label_that_only_evaluation_has_is_named_with_its_row(tmp_path: Path) -> None:
    held = lines(tmp_path / "held.jsonl", [*GOOD[:3], {"text": "x", "label": "c"}, {"text": "y", "label": "d"}])
    error = refusal(Sorting(), tmp_path, GOOD, eval=held)
    assert error == (
        "held.jsonl:4: the label 'c' (and 1 more) is in the evaluation rows and in no training row: correct it, "
        "or add training rows of it, leave it out, or list it with all labels in data.labels. "
        "The training rows have 'a', 'b'"
    )


def test_labels_that_a_comma_makes_one_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "tickets.csv"
    table.write_text('text,labels\na,light\nb,"light, money"\nc,money|light\n')
    ingest(TextMultiLabel(), DataSpec(train=str(table), eval=str(table)), tmp_path)
    (warning,) = caplog.messages
    assert "'light, money' is one label, beside the label 'light': if these are several, write 'light|money'" in warning
    caplog.clear()
    table.write_text('text,labels\na,"salt, pepper"\nb,oil\nc,\n')
    ingest(TextMultiLabel(), DataSpec(train=str(table), eval=str(table)), tmp_path)
    assert not caplog.messages


def found(written: str, folder: Path, form: Source | None = None) -> list[str]:
    return [file.name for file in find_data_files(written, form, folder / "scratch")]


def test_files_that_are_not_there_are_reported_with_the_nearest_name(tmp_path: Path) -> None:
    lines(tmp_path / "tickets.jsonl", GOOD)
    with pytest.raises(DataError, match=r"there is no such file or folder; did you mean .*/tickets\.jsonl\?"):
        found(str(tmp_path / "tickts.jsonl"), tmp_path)
    with pytest.raises(DataError, match="no file matches this pattern"):
        found(str(tmp_path / "*.csv"), tmp_path)


def test_a_name_that_looks_like_a_pattern_is_a_file_when_there_is_one(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows[1].jsonl", GOOD)
    assert found(path, tmp_path) == [path]


def test_what_no_source_reads_is_reported_with_the_sources(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(DataError) as refused:
        found(str(tmp_path / "rows.xlsx"), tmp_path)
    assert all(name in str(refused.value) for name in [*Source.names(), ".tsv", ".parquet", "write data.format"])
    with pytest.raises(DataError, match=r"with a glob, such as .*/\*\.csv"):
        found(str(tmp_path), tmp_path)
    assert found(str(tmp_path / "rows.xlsx"), tmp_path, Source.lookup("csv")()) == [str(tmp_path / "rows.xlsx")]


def test_a_path_that_two_sources_read_needs_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "rows.jsonl", GOOD)
    monkeypatch.setattr(Source.lookup("parquet"), "suffixes", (".jsonl",))
    with pytest.raises(DataError, match=r"jsonl and parquet both read it: write data\.format"):
        found(path, tmp_path)


def test_text_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("text,label\nné,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        ingest(Sorting(), DataSpec(train=str(tmp_path / "rows.csv")), tmp_path)


@pytest.mark.parametrize("url", ["https://host/rows.csv", "gs://bucket/rows.csv"])
def test_other_urls_are_unsupported(tmp_path: Path, url: str) -> None:
    with pytest.raises(Unsupported, match="allowed are a local path, a glob, s3:// or hf://"):
        found(url, tmp_path)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A folder in place of s3://bucket."""
    store = open_store(str(tmp_path / "bucket"))

    def opened(url: str) -> ObjectStore:
        assert url == "s3://bucket"
        return store

    monkeypatch.setattr(locations, "open_store", opened)
    return store


def test_objects_in_s3_are_read_and_called_by_their_url(tmp_path: Path, bucket: ObjectStore) -> None:
    part = "".join(json.dumps(row) + "\n" for row in GOOD[:20]).encode()
    for key in ("in/1.jsonl", "in/2.jsonl", "in/deeper/3.jsonl", "in/notes.txt"):
        bucket.put(key, part)
    files = list(find_data_files("s3://bucket/in/*.jsonl", None, tmp_path / "scratch"))
    assert [file.name for file in files] == ["s3://bucket/in/1.jsonl", "s3://bucket/in/2.jsonl"]
    assert [raw.where for raw in files[1].rows()][3] == "s3://bucket/in/2.jsonl:4"
    bucket.put("in/bad.jsonl", b"{}\n{")
    spec = DataSpec(train="s3://bucket/in/bad.jsonl")
    with pytest.raises(DataError, match=r"^s3://bucket/in/bad\.jsonl: has no column 'text'"):
        ingest(Sorting(), spec, tmp_path)


def test_what_is_not_in_s3_is_refused(tmp_path: Path, bucket: ObjectStore) -> None:
    bucket.put("in/a.parquet", b"")
    for url in ("s3://bucket/none.csv", "s3://bucket/none/", "s3://bucket/in/*.csv"):
        with pytest.raises(DataError, match="no object has this name"):
            found(url, tmp_path)
    with pytest.raises(DataError, match=r"name the files in it with a glob, such as s3://bucket/in/\*\.csv"):
        found("s3://bucket/in", tmp_path)


def test_parquet_values_are_plain_when_they_reach_the_row(tmp_path: Path) -> None:
    table = {"text": pa.array(["a", "b"]).dictionary_encode(), "value": pa.array([1, 2], pa.int8())}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    data = DataSpec(train=str(tmp_path / "rows.parquet"), eval=str(tmp_path / "rows.parquet"))
    assert ingest(Rating(), data, tmp_path).rows == {"train": 2, "eval": 2}
