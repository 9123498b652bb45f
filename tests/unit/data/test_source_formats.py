"""Sources on unusual files: each format's variants and errors."""

from __future__ import annotations

import csv as csv_module
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from regraft.contracts import Source
from regraft.data.sources import jsonl
from regraft.data.sources.coco import Coco
from regraft.data.sources.conll import Conll
from regraft.data.sources.csv import Csv
from regraft.data.sources.images import Images
from regraft.data.sources.jsonl import Jsonl
from regraft.data.sources.parquet import Parquet
from regraft.errors import DataError

QUICK = settings(max_examples=60, deadline=None)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)


def written(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def read(source: Source, path: Path) -> list[dict[str, Any]]:
    """Return every row's values; DataError for the first bad row."""
    rows = []
    for raw in source.read(path):
        if raw.problem:
            raise DataError(raw.problem, raw.where)
        rows.append(raw.values)
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@QUICK
@given(st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=8), st.sampled_from([".csv", ".tsv"]))
def test_csv_gives_back_what_a_csv_writer_wrote(folder: Path, rows: list[tuple[str, str]], suffix: str) -> None:
    path = folder / f"table{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv_module.writer(file, delimiter="," if suffix == ".csv" else "\t")
        writer.writerows([("text", "label"), *rows])
    assert read(Csv(), path) == [{"text": text, "label": label} for text, label in rows]


def test_csv_without_header_takes_the_names_it_is_given(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.tsv", 'a "fine film\t1\n"dull\t0\n')
    source = Source.parse({"type": "csv", "header": ["text", "label"], "quote": None})
    assert isinstance(source, Csv)
    assert read(source, path) == [{"text": 'a "fine film', "label": "1"}, {"text": '"dull', "label": "0"}]
    with pytest.raises(DataError, match="quote: null"):
        read(Csv(header=("text", "label")), path)


@pytest.mark.parametrize("name", ["rows.tsv.gz", "rows.TSV"])
def test_csv_packed_or_tabbed_by_its_name(tmp_path: Path, name: str) -> None:
    content = b'text\tlabel\n"a\r\nb"\tc\n'
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert Csv().accepts(tmp_path / name)
    assert read(Csv(), tmp_path / name) == [{"text": "a\r\nb", "label": "c"}]


def test_csv_takes_another_delimiter_and_passes_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", "text;label\n\na;b\n\n")
    assert [row for row in read(Csv(delimiter=";"), path) if row] == [{"text": "a", "label": "b"}]


@pytest.mark.parametrize("header", [False, None, [], ["a", "a"], "text"])
def test_csv_refuses_a_header_that_names_nothing(header: object) -> None:
    with pytest.raises(ValidationError):
        Csv.model_validate({"header": header})
    with pytest.raises(ValueError, match=r"header: \[text, label\]"):
        Csv.model_validate({"header": False})


def test_csv_reads_a_cell_longer_than_pythons_limit(tmp_path: Path) -> None:
    path = written(tmp_path / "long.csv", "text\n" + "x" * 200_000 + "\n")
    assert len(read(Csv(), path)[0]["text"]) == 200_000


@pytest.mark.parametrize(
    ("content", "message", "line"),
    [
        ("", "is empty", ""),
        ("text,label\na,b\na,b,c\n", "has 3 cells for 2 columns", ":3"),
        ('text,label\na,b\n"open,c\n', "not readable as a table", ":3"),
    ],
)
def test_csv_says_what_is_wrong_with_a_table(tmp_path: Path, content: str, message: str, line: str) -> None:
    path = written(tmp_path / "rows.csv", content)
    with pytest.raises(DataError, match=message) as refused:
        read(Csv(), path)
    assert refused.value.where == f"{path}{line}"


JSON_ROWS = st.lists(st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.none(), st.lists(st.floats(-9, 9)))))


@QUICK
@given(JSON_ROWS, st.sampled_from([None, 0, 3]), st.integers(1, 40))
def test_json_list_is_read_in_pieces_as_if_whole(folder: Path, rows: Any, indent: int | None, piece: int) -> None:
    path = written(folder / "rows.json", " \n" + json.dumps(rows, indent=indent) + "\n ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_PIECE", piece)
        assert read(Jsonl(), path) == rows


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.json", "rows.ndjson"])
def test_json_lines_under_any_of_their_names(tmp_path: Path, name: str) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": null}\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert Jsonl().accepts(path)
    assert not Coco().accepts(path)
    assert read(Jsonl(), path) == [{"a": 1}, {"a": None}]


@pytest.mark.parametrize(
    ("content", "message", "row"),
    [
        ('[{"a": 1}, 5]', "is a number; a row is an object", 2),
        ('[{"a": 1} {"a": 2}]', "a comma or the end of the list is wanted", 1),
        ('[{"a": 1}, {"a": ', "is not JSON", 2),
        ('[{"a": 1}', "the list does not end", 1),
        ('{"a": 1}\n["a"]\n', "is a list; a row is an object", 2),
        ('{"a": 1}\n' + '{"a":' * 100_000 + "\n", "is not a JSON object on one line", 2),
    ],
)
def test_json_says_what_is_wrong_with_a_row(tmp_path: Path, content: str, message: str, row: int) -> None:
    path = written(tmp_path / "rows.json", content)
    with pytest.raises(DataError, match=message) as refused:
        read(Jsonl(), path)
    assert refused.value.where == f"{path}:{row}"


def test_parquet_refuses_extension_types_at_any_depth(tmp_path: Path) -> None:
    known = pa.table({"a": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"]))})
    mark = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": b"\x80\x04."}
    inner = pa.struct([pa.field("inside", pa.binary(), metadata=mark)])
    unknown = pa.table({"a": pa.array([{"inside": b""}], inner)})
    for number, table in enumerate((known, unknown)):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path)
        with pytest.raises(DataError, match="column 'a' is of the extension type"):
            read(Parquet(), path)


def test_parquet_rows_are_numbered_across_its_pieces(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(2500))}), tmp_path / "rows.parquet", row_group_size=700)
    rows = list(Parquet().read(tmp_path / "rows.parquet"))
    assert [(row.values["a"], row.where) for row in rows][-1] == (2499, f"{tmp_path / 'rows.parquet'}:2500")
    assert len(rows) == 2500


def coco(folder: Path, **changes: Any) -> Path:
    document = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 5, 5]}],
        "categories": [{"id": 2, "name": "cat"}],
    }
    return written(folder / "coco.json", json.dumps(document | changes, indent=1))


NOTE = {"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 5, 5]}


@pytest.mark.parametrize(
    ("changes", "message", "where"),
    [
        ({"categories": None}, "has no list 'categories'.*format: jsonl", ""),
        ({"annotations": [NOTE | {"image_id": 8}]}, "image_id is 8, which is not the id of any", ":annotation 3"),
        ({"annotations": [NOTE | {"category_id": []}]}, r"category_id is \[\]", ":annotation 3"),
        ({"annotations": [NOTE | {"bbox": [1, 2, 3]}]}, "four numbers are wanted", ":annotation 3"),
        ({"annotations": ["x"]}, "is not a JSON object", ":annotation x"),
        ({"images": [{"id": 1}]}, "the image with id 1 has no file_name", ":image 1"),
        ({"images": [{"id": 1}, {"id": 1}]}, "the id 1 is used twice, for None and None", ":image 2"),
        ({"images": [{"file_name": "a.png"}]}, "the image has no id", ":image 1"),
        (
            {"categories": [{"id": 2, "name": "a"}, {"id": 2, "name": "b"}]},
            "is used twice, for 'a' and 'b'",
            ":category 2",
        ),
    ],
)
def test_coco_names_the_entry_that_is_wrong(tmp_path: Path, changes: Any, message: str, where: str) -> None:
    path = coco(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as refused:
        read(Coco(), path)
    assert refused.value.where == f"{path}{where}"


def test_coco_images_lie_in_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = coco(tmp_path)
    assert read(Coco(images="pictures"), path)[0]["image"] == str(tmp_path / "pictures/a.png")
    assert read(Coco(), path)[0]["image"] == str(tmp_path / "a.png")


def test_a_folder_with_a_coco_document_is_cocos(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").touch()
    path = coco(tmp_path)
    assert (Coco().accepts(tmp_path), Images().accepts(tmp_path)) == (True, False)
    path.rename(tmp_path / "_annotations.coco.json")
    assert read(Coco(), tmp_path)[0]["labels"] == ["cat"]
    (tmp_path / "_annotations.coco.json").unlink()
    assert (Coco().accepts(tmp_path), Images().accepts(tmp_path)) == (False, True)
    with pytest.raises(DataError, match="no other COCO document"):
        read(Coco(), tmp_path)


def test_images_refuses_folders_in_class_folders(tmp_path: Path) -> None:
    """Otherwise `train/` and `val/` would become the labels without an error."""
    (tmp_path / "train" / "ants").mkdir(parents=True)
    with pytest.raises(DataError, match="'train' is a part of the data and not a label"):
        read(Images(), tmp_path)


def test_images_refuses_what_has_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folders"):
        read(Images(), tmp_path)
    with pytest.raises(DataError, match="is a file"):
        read(Images(), written(tmp_path / "x.txt", ""))


def test_conll_takes_the_columns_it_is_given(tmp_path: Path) -> None:
    path = written(tmp_path / "x.conll", "1 Ann NNP B-per _\n2 left VBD O _\n\n1 Bob NNP B-per _\n")
    found = [(raw.values, raw.where) for raw in Conll(token_column=1, tag_column=-2).read(path)]
    assert found == [
        ({"tokens": ["Ann", "left"], "tags": ["B-per", "O"]}, f"{path}:1"),
        ({"tokens": ["Bob"], "tags": ["B-per"]}, f"{path}:4"),
    ]
    assert read(Conll(token_column=1, tag_column=2), path)[1] == {"tokens": ["Bob"], "tags": ["NNP"]}


def test_conll_with_a_separator_keeps_blanks_in_words(tmp_path: Path) -> None:
    path = written(tmp_path / "x.bio", "New York\tB-loc\n\u2028\tO\n")
    assert read(Conll(separator="\t"), path) == [{"tokens": ["New York", "\u2028"], "tags": ["B-loc", "O"]}]


def test_conll_turns_iob1_into_iob2(tmp_path: Path) -> None:
    tags = ["I-per", "I-per", "B-per", "I-per", "O", "I-loc", "I-per", "B-loc"]
    path = written(tmp_path / "x.iob", "".join(f"w {tag}\n" for tag in tags))
    assert read(Conll(), path)[0]["tags"] == tags
    begun = ["B-per", "I-per", "B-per", "I-per", "O", "B-loc", "B-per", "B-loc"]
    assert read(Conll(scheme="iob1"), path)[0]["tags"] == begun


@pytest.mark.parametrize(
    ("fields", "content", "message", "line"),
    [
        ({}, "a O\nb x O\n", "has 3 columns where the lines before have 2", 2),
        ({}, "-DOCSTART-\n\na\n", "has 1 column, and data.format takes words and tags from the same one", 3),
        ({"token_column": 2}, "a O\n", "has 2 columns; data.format.token_column is 2: write 0 to 1", 1),
        ({"separator": "\t"}, "a O\n", "has 1 column, and", 1),
    ],
)
def test_conll_says_which_line_is_wrong(tmp_path: Path, fields: Any, content: str, message: str, line: int) -> None:
    path = written(tmp_path / "x.conll", content)
    with pytest.raises(DataError, match=message) as refused:
        read(Conll(**fields), path)
    assert refused.value.where == f"{path}:{line}"
