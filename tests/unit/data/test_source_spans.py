"""Texts with marked spans, as doccano, Label Studio and Prodigy write them, become words and tags without loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regraft.columns.tags import TagsColumn
from regraft.contracts import Raw
from regraft.data.cell_parsing import ColumnMapping
from regraft.data.sources.jsonl import Jsonl
from regraft.data.sources.spans import Spans
from regraft.errors import DataError

TEXT = "\U0001f600 Anna-Lena (Oslo) left."
WORDS = ["\U0001f600", "Anna-Lena", "(", "Oslo", ")", "left", "."]
TAGS = ["O", "B-PER", "O", "B-LOC", "O", "O", "O"]
DOCCANO = {"id": 1, "text": TEXT, "label": [[2, 11, "PER"], [13, 17, "LOC"]]}
DOCCANO_NEW = {
    "text": TEXT,
    "entities": [
        {"id": 0, "label": "LOC", "start_offset": 13, "end_offset": 17},
        {"id": 1, "label": "PER", "start_offset": 2, "end_offset": 11},
    ],
    "relations": [],
}
PRODIGY = {
    "text": TEXT,
    "tokens": [{"text": "\U0001f600", "start": 0, "end": 1}, {"text": "Anna-Lena", "start": 2, "end": 11},
               {"text": "(", "start": 12, "end": 13}, {"text": "Oslo", "start": 13, "end": 17},
               {"text": ")", "start": 17, "end": 18}, {"text": "left.", "start": 19, "end": 24}],
    "spans": [{"start": 2, "end": 11, "label": "PER"}, {"start": 13, "end": 18, "label": "LOC"}],
    "answer": "accept",
}  # fmt: skip


def studio(*results: tuple[int, int, str, str], **more: Any) -> dict[str, Any]:
    """Return a task of Label Studio's JSON export, whose offsets count UTF-16 units."""
    values = [{"start": start, "end": end, "text": text, "labels": [kind]} for start, end, text, kind in results]
    annotation = {"result": [{"value": value, "type": "labels"} for value in values], **more}
    return {"id": 7, "data": {"text": TEXT}, "annotations": [annotation]}


STUDIO = studio((3, 12, "Anna-Lena", "PER"), (14, 18, "Oslo", "LOC"))
STUDIO_MIN = {"text": TEXT, "label": [value["value"] for value in STUDIO["annotations"][0]["result"]]}


def read(folder: Path, *rows: Any, whole: bool = False, **fields: Any) -> list[Raw]:
    path = folder / "rows.json"
    path.write_text(json.dumps(list(rows)) if whole else "".join(json.dumps(row) + "\n" for row in rows))
    return list(Spans(**fields).read(path))


@pytest.mark.parametrize("row", [DOCCANO, DOCCANO_NEW, STUDIO, STUDIO_MIN])
def test_spans_become_words_and_tags(tmp_path: Path, row: Any) -> None:
    (raw,) = read(tmp_path, row, whole=True)
    assert (raw.values["tokens"], raw.values["tags"], raw.problem) == (WORDS, TAGS, None)


def test_an_empty_list_hides_no_other(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, DOCCANO_NEW | {"label": []})
    assert (raw.values["tags"], raw.problem) == (TAGS, None)


@pytest.mark.parametrize("result", [None, [{"value": None}], [None], {}, 5])
def test_a_result_without_spans_marks_nothing(tmp_path: Path, result: Any) -> None:
    (raw,) = read(tmp_path, {**STUDIO, "annotations": [{"result": result}]})
    assert (set(raw.values["tags"]), raw.problem) == ({"O"}, None)


def test_the_tokens_of_a_row_are_its_words(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, PRODIGY)
    assert raw.values["tokens"] == [*WORDS[:5], "left."]
    assert raw.values["tags"] == ["O", "B-PER", "O", "B-LOC", "I-LOC", "O"]


def test_a_span_inside_a_word_cuts_it(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, {"text": "Oslo-based x", "label": [[0, 4, "LOC"], [4, 10, "REST"]]})
    assert raw.values["tokens"] == ["Oslo", "-based", "x"]
    assert raw.values["tags"] == ["B-LOC", "B-REST", "O"]


def test_blanks_at_the_ends_of_a_span_are_no_part_of_it(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, {"text": "to New York now", "label": [[2, 12, "LOC"]]})
    assert raw.values["tags"] == ["O", "B-LOC", "I-LOC", "O"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a b", "label": [[0, 9, "X"]]}, "span 1 is of characters 0 to 9; the text has 3"),
        ({"text": "a b", "label": [[0, 2, "X"], [0, 3, "Y"]]}, "overlap, and a word has one tag"),
        ({"text": "a b", "label": [[1, 2, "X"]]}, "holds no character"),
        ({"text": "a b", "label": [["a", 2, "X"]]}, "start and end are whole numbers"),
        ({"text": "a b", "label": [[0, 1]]}, r"allowed is \[start, end, type\]"),
        ({"text": "a b", "label": "X"}, "has no list of spans"),
        ({"body": "a b", "label": []}, "has no text 'text'; it has 'body', 'label'"),
        (PRODIGY | {"tokens": PRODIGY["tokens"][:3]}, r"its tokens do not cover every span, as 'Oslo\)' \(LOC\)"),
        (PRODIGY | {"tokens": [{"start": 2, "end": 8}, {"start": 13, "end": 18}]}, "do not cover .*'Anna-Lena'"),
        (PRODIGY | {"tokens": [{"start": None}]}, "token 1 is .*start and end are whole numbers"),
        (PRODIGY | {"tokens": [{"start": None, "end": 3}]}, "token 1 is .*start and end are whole numbers"),
        (PRODIGY | {"tokens": [{"start": 0, "end": 99}]}, "token 1 is of characters 0 to 99"),
        (PRODIGY | {"tokens": [{"start": 0, "end": 9}, {"start": 4, "end": 24}]}, "tokens follow one another"),
        (
            DOCCANO | {"entities": DOCCANO_NEW["entities"]},
            r"several lists that may be its spans \(label, entities\): write data.format: {type: spans, spans: label",
        ),
        ({**STUDIO, "annotations": 5}, "annotations is 5; a list is wanted"),
        (studio((3, 12, "Oslo", "PER")), "'Oslo' by its text and 'nna-Lena ' by its characters 3 to 12"),
        ({**STUDIO, "annotations": [*STUDIO["annotations"], {"result": []}]}, "has 2 annotations that differ"),
    ],
)
def test_a_row_that_is_in_doubt_is_a_bad_row(tmp_path: Path, row: Any, message: str) -> None:
    (raw,) = read(tmp_path, row)
    with pytest.raises(ValueError, match=message):
        raise ValueError(raw.problem)


def test_rows_that_nobody_annotated_are_counted(tmp_path: Path) -> None:
    rows = [{**PRODIGY, "answer": "reject"}, {**STUDIO, "annotations": []}, studio(was_cancelled=True)]
    assert [raw.ignored for raw in read(tmp_path, *rows)] == [
        "rows with the answer reject", "rows without an annotation", "rows without an annotation"
    ]  # fmt: skip
    assert read(tmp_path, {"text": "a b", "label": []})[0].values["tags"] == ["O", "O"]


@pytest.mark.parametrize(
    ("row", "way"),
    [
        (DOCCANO, "data.format: spans"),
        (DOCCANO_NEW, "data.format: spans"),
        (PRODIGY | {"tokens": None}, "data.format: spans"),
        (STUDIO, "data.format: spans"),
    ],
)
def test_other_sources_name_the_way_to_read_such_rows(row: Any, way: str) -> None:
    wanted = {"tokens": "words", "tags": "tags"}
    given = {name: value for name, value in row.items() if value is not None}
    with pytest.raises(DataError, match=way):
        ColumnMapping(wanted, {}, ".").check(Raw(given, "x:1"), "x", Jsonl())


def test_rows_without_either_look_like_neither() -> None:
    assert TagsColumn().instead({"text": "a", "numbers": [1, 2, 3]}) is None
