"""JSON in other forms than one row a line: documents, pandas' orients, objects one after another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doubles.fake_tasks import Sorting
from regraft.contracts import Source
from regraft.data.ingest import ingest
from regraft.data.inputs import find_source
from regraft.data.json_shape import json_shape
from regraft.data.sources.jsonl import Jsonl
from regraft.errors import DataError
from regraft.spec.sections import DataSpec

ROWS: list[dict[str, Any]] = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(30)]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(path: Path, **fields: Any) -> list[dict[str, Any]]:
    source = Jsonl(**fields) if fields else find_source(path, "it")
    found = list(source.read(path))
    assert not [raw.problem for raw in found if raw.problem]
    return [raw.values for raw in found]


def refusal(path: Path, **data: Any) -> str:
    with pytest.raises(DataError) as refused:
        ingest(Sorting(), DataSpec.model_validate({"train": str(path), "eval": str(path), **data}), path.parent)
    return refused.value.message


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("size", [3, 30, 3000])
def test_objects_one_after_another_are_rows(tmp_path: Path, indent: int | None, size: int) -> None:
    rows = [ROWS[n % 30] for n in range(size)]
    path = write(tmp_path / "rows.json", "\n".join(json.dumps(row, indent=indent) for row in rows) + "\n")
    assert read(path) == rows
    path = write(tmp_path / "rows.json", "".join(json.dumps(row, indent=indent) for row in rows))
    assert read(path) == rows


def test_objects_that_break_off_are_named_by_their_number(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", json.dumps(ROWS[0], indent=1) + '\n{\n"text": "b",\n')
    with pytest.raises(DataError, match="is not JSON") as refused:
        read(path)
    assert refused.value.where == f"{path}:2"


@pytest.mark.parametrize("size", [4, 4000])
@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table", "lines"])
def test_what_pandas_writes_is_read_in_every_orient(tmp_path: Path, orient: str, size: int) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [ROWS[n % 30] for n in range(size)]
    frame = pandas.DataFrame(rows)
    for indent in (None, 1):
        path = tmp_path / "rows.json"
        if orient == "lines":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_json(path, orient=orient, indent=indent)
        assert [{name: row[name] for name in ("text", "label")} for row in read(path)] == rows


def test_rows_without_names_say_how_to_write_them(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", json.dumps([list(row.values()) for row in ROWS]))
    assert r"is a list; a row is an object: {name: value} (pandas: to_json(orient='records'))" in refusal(path)


def test_rows_named_by_text_are_read_by_the_orient_that_the_message_names(tmp_path: Path) -> None:
    index = {f"doc-{n}": row for n, row in enumerate(ROWS)}
    path = write(tmp_path / "rows.json", json.dumps(index))
    assert "each of its keys holds a row: write data.format: {type: jsonl, orient: index}" in refusal(path)
    assert read(path, orient="index") == ROWS
    columns = {name: {key: row[name] for key, row in index.items()} for name in ("text", "label")}
    assert read(write(path, json.dumps(columns, indent=1)), orient="columns") == ROWS


def test_columns_of_values_are_read_by_the_orient_that_the_message_names(tmp_path: Path) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ("text", "label")}
    path = write(tmp_path / "rows.json", json.dumps(columns, indent=1))
    assert "is a list of 30 texts; one text is wanted. If the file holds whole columns, write orient: columns in" in (
        refusal(path)
    )
    assert read(path, orient="columns") == ROWS
    path = write(path, json.dumps({**columns, "label": ["a"]}))
    with pytest.raises(DataError, match="the columns do not have the same length: text 30, label 1"):
        read(path, orient="columns")


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("size", [4, 4000])
@pytest.mark.parametrize("key", ["data", "result.rows", "a.b"])
def test_rows_under_a_key_are_named_and_read(tmp_path: Path, key: str, size: int, indent: int | None) -> None:
    rows = [ROWS[n % 30] for n in range(size)]
    inner: Any = {"result": {"rows": rows, "more": [1]}} if key == "result.rows" else {key: rows}
    path = write(tmp_path / "rows.json", json.dumps({"version": "1", **inner, "notes": [{"by": "me"}]}, indent=indent))
    assert find_source(path, "it").key() == "jsonl"
    message = refusal(path)
    assert f"rows stand under {key!r}: write data.format: {{type: jsonl, field: {key}}}" in message
    assert read(path, field=key) == rows
    spec = DataSpec.model_validate({"train": str(path), "eval": str(path), "format": {"type": "jsonl", "field": key}})
    assert ingest(Sorting(), spec, tmp_path).rows["train"] == size


def test_rows_that_begin_on_the_second_line_are_still_one_document(tmp_path: Path) -> None:
    for size in (3, 3000):
        rows = [ROWS[n % 30] for n in range(size)]
        path = write(tmp_path / "rows.json", '{"data": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}\n")
        assert read(path, field="data") == rows


def test_each_line_may_hold_its_row_under_a_key(tmp_path: Path) -> None:
    lines = [{"row_idx": n, "row": row, "truncated_cells": []} for n, row in enumerate(ROWS)]
    path = write(tmp_path / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert "rows stand under 'row': write data.format: {type: jsonl, field: row}" in refusal(path)
    assert read(path, field="row") == ROWS
    assert read(write(tmp_path / "rows.json", json.dumps(lines)), field="row") == ROWS


def test_a_key_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", json.dumps({"data": ROWS, "version": 1}))
    message = refusal(path, format={"type": "jsonl", "field": "rows"})
    assert "has no key 'rows', which data.format.field names; it has 'data', 'version'" in message


def test_one_row_alone_is_a_row_and_no_table(tmp_path: Path) -> None:
    row = {"tokens": ["a", "b"], "tags": ["O", "O"], "translation": {"en": "a", "de": "b"}}
    for indent in (None, 2):
        path = write(tmp_path / "row.json", json.dumps(row, indent=indent))
        assert read(path) == [row]


def test_a_document_of_cocos_is_cocos_and_no_other(tmp_path: Path) -> None:
    coco = {"info": {"year": 2020}, "images": [], "annotations": [], "categories": []}
    path = tmp_path / "d.json"
    for document, source in (
        (coco, "coco"),
        ({"licenses": [{"name": "x" * 100}] * 1000, **coco}, "coco"),
        ({"images": [], "categories": []}, "coco"),
        ({"version": 1, "data": ROWS}, "jsonl"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "jsonl"),
    ):
        write(path, json.dumps(document, indent=1))
        assert find_source(path, "it").key() == source
    write(path, json.dumps({"images": ["a.png"], "messages": []}) + "\n" + json.dumps({"images": []}) + "\n")
    assert find_source(path, "it").key() == "jsonl"


def test_a_first_line_that_is_broken_leaves_the_other_lines_rows(tmp_path: Path) -> None:
    good = "".join(json.dumps(row) + "\n" for row in ROWS * 100)
    for first in ('{"text": "a"', '{"text": ', '{"text": "a"},', "{'text': 'a'}"):
        path = write(tmp_path / "rows.jsonl", first + "\n" + good)
        assert json_shape(path) == "lines"
        found = list(Jsonl().read(path))
        assert (len(found), bool(found[0].problem), found[0].where) == (3001, True, f"{path}:1")
        assert "is not a JSON object on one line" in str(found[0].problem)


def test_the_place_of_an_error_in_a_line_is_that_in_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "a"}\n{"text": a}\n')
    [_, bad] = Jsonl().read(path)
    assert bad.problem == "is not a JSON object on one line: Expecting value, column 10"


def test_the_new_fields_parse_as_they_are_written() -> None:
    source = Source.parse({"type": "jsonl", "field": "data"})
    assert isinstance(source, Jsonl)
    assert source.written(orient="index") == "{type: jsonl, field: data, orient: index}"


def test_rows_under_a_key_are_named_even_if_their_columns_have_other_names(tmp_path: Path) -> None:
    rows = [{"review": f"text {n}", "stars": n} for n in range(3)]
    path = write(tmp_path / "rows.json", json.dumps({"version": "1", "data": rows, "count": 3}))
    assert (
        "rows stand under 'data': write data.format: {type: jsonl, field: data}; or write data.columns: "
        "{text: version, label: count}"
    ) in refusal(path)


@pytest.mark.parametrize(
    "row",
    [
        {"probs": {"0": 0.1, "1": 0.9}},
        {"probs": {"1": 0.1, "2": 0.9}, "shares": {"1": 0.1, "2": 0.9}},
        {"probs": {"0": 0.1, "1": 0.9}, "shares": {"0": 0.1}},
        {"0": {"p": 1}, "1": {"p": 2}},
    ],
)
def test_a_single_row_is_not_taken_for_a_table(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(write(tmp_path / "r.jsonl", json.dumps(row))) == [row]
    assert read(write(tmp_path / "r.json", json.dumps(row))) == [row]


def test_a_table_of_one_column_is_read_by_its_orient(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", json.dumps({"text": {"7": "a", "8": "b"}}))
    assert read(path, orient="columns") == [{"text": "a"}, {"text": "b"}]


def test_numbered_rows_in_any_order_are_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", json.dumps({"text": {"1": "a", "0": "b"}, "label": {"1": "x", "0": "y"}}))
    assert read(path) == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


@pytest.mark.parametrize("columns", [{"text": {"7": "a", "3": "b"}}, {"text": {"7": "a"}, "label": {"7": "x"}}])
def test_a_table_that_is_not_numbered_from_0_names_its_orient(tmp_path: Path, columns: dict[str, Any]) -> None:
    assert "orient: columns" in refusal(write(tmp_path / "r.json", json.dumps({"label": {"7": "x"}, **columns})))
