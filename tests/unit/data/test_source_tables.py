"""Arrow, Parquet and saved data sets: rows across batches, class names, embedded images, nested columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from doubles.fake_tasks import Finding, Rating, Seeing, Tagging
from regraft.contracts import Source
from regraft.data.arrays import encode_png
from regraft.data.inputs import find_source
from regraft.data.snapshot import build_snapshot
from regraft.data.sources.arrow import Arrow
from regraft.data.sources.parquet import Parquet
from regraft.data.sources.saved_dataset import SavedDataset
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store

NAMES = {"names": ["O", "B-x"], "_type": "ClassLabel"}


def stream(path: Path, table: Any) -> Path:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        for piece in table.to_batches(max_chunksize=700):
            writer.write_batch(piece)
    return path


def in_file(path: Path, table: Any) -> Path:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        for piece in table.to_batches(max_chunksize=700):
            writer.write_batch(piece)
    return path


def feather(path: Path, table: Any) -> Path:
    pyarrow.feather.write_feather(table, str(path), compression="lz4", chunksize=700)
    return path


def read(source: Source, path: Path) -> list[dict[str, Any]]:
    return [raw.values for raw in source.read(path)]


@pytest.mark.parametrize("write", [stream, in_file, feather])
def test_arrow_in_each_of_its_formats(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / "rows.feather", pa.table({"a": range(2500), "b": [[1, None]] * 2500}))
    rows = list(Arrow().read(path))
    assert [row.values["a"] for row in rows] == list(range(2500))
    assert rows[-1].values["b"] == [1, None]
    assert rows[1700].where == f"{path}:1701"


def test_arrow_refuses_extension_types_and_what_is_cut(tmp_path: Path) -> None:
    known = pa.table({"a": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"]))})
    with pytest.raises(DataError, match="column 'a' is of the extension type"):
        read(Arrow(), stream(tmp_path / "a.arrow", known))
    path = stream(tmp_path / "b.arrow", pa.table({"a": range(2500)}))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match="is not readable as Arrow IPC") as refused:
        read(Arrow(), path)
    assert refused.value.where == f"{path}:701"
    (tmp_path / "c.arrow").write_bytes(b"")
    with pytest.raises(DataError):
        read(Arrow(), tmp_path / "c.arrow")


FEATURES: dict[str, Any] = {
    "label": NAMES,
    "tags": {"feature": NAMES, "_type": "Sequence"},
    "old": [NAMES],
    "columns": {"feature": {"kind": NAMES, "box": {"dtype": "int64", "_type": "Value"}}, "_type": "Sequence"},
    "rows": {"feature": {"kind": NAMES}, "_type": "List"},
    "plain": {"dtype": "int64", "_type": "Value"},
}
NUMBERED = {
    "label": 1,
    "tags": [0, 1],
    "old": [1, 0],
    "columns": {"kind": [0, 1], "box": [1, 0]},
    "rows": [{"kind": 1}],
    "plain": 1,
}
NAMED = {
    "label": "B-x",
    "tags": ["O", "B-x"],
    "old": ["B-x", "O"],
    "columns": {"kind": ["O", "B-x"], "box": [1, 0]},
    "rows": [{"kind": "B-x"}],
    "plain": 1,
}


@pytest.mark.parametrize("source", [Arrow(), Parquet()])
def test_class_numbers_become_the_names_that_their_writer_left(tmp_path: Path, source: Source) -> None:
    table = pa.Table.from_pylist([NUMBERED, {**NUMBERED, "label": -1}, {**NUMBERED, "label": 7, "tags": None}])
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    path = tmp_path / "rows"
    pq.write_table(table, path) if isinstance(source, Parquet) else stream(path, table)
    assert read(source, path) == [NAMED, {**NAMED, "label": None}, {**NAMED, "label": 7, "tags": None}]


@pytest.mark.parametrize("written", ["no JSON", "[]", '{"info": 3}', '{"info": {"features": {"a": 5}}}'])
def test_strange_metadata_are_passed_over(tmp_path: Path, written: str) -> None:
    table = pa.table({"a": [1]}).replace_schema_metadata({"huggingface": written})
    assert read(Arrow(), stream(tmp_path / "rows", table)) == [{"a": 1}]


def saved(folder: Path, table: Any, features: Any = None) -> Path:
    folder.mkdir(parents=True)
    stream(folder / "data-00000-of-00001.arrow", table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features or {}}))
    return folder


def test_a_folder_of_splits_is_read_by_the_one_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "all"
    for number, split in enumerate(("train", "test")):
        saved(path / split, pa.table({"text": [split], "label": [number]}), {"label": NAMES})
    (path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert find_source(path, "it").key() == "saved-dataset"
    [row] = SavedDataset(part="test").read(path)
    assert (row.values, row.where) == ({"text": "test", "label": "B-x"}, f"{path / 'test'}:1")
    for part in (None, "dev", ".."):
        with pytest.raises(DataError, match=r"holds the splits train, test; .*: write .*/all#train"):
            read(SavedDataset(part=part), path)
    with pytest.raises(DataError, match="is one data set without splits; 'train' is written: leave it out"):
        read(SavedDataset(part="train"), path / "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("state.json", '{"_data_files": [{"filename": "../secret.arrow"}]}', "names no data files of its own"),
        ("state.json", '{"_data_files": []}', "names no data files of its own"),
        ("state.json", "{", "is not JSON"),
        ("dataset_info.json", "[]", "is JSON, but no object"),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}', "is not readable as an Arrow stream"),
    ],
)
def test_a_saved_data_set_that_is_not_whole_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = saved(tmp_path / "set", pa.table({"a": [1]}))
    (path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read(SavedDataset(), path)


def test_what_the_library_itself_saves_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the `datasets` library is not installed: its format is imitated")
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["no", "yes"]),
        image=datasets.Image(),
    )
    rows = [
        {"text": str(n), "label": n % 2, "image": {"bytes": encode_png(np.full((2, 3), n, np.uint8)), "path": None}}
        for n in range(30)
    ]
    data = datasets.Dataset.from_list(rows, features=features)
    both = datasets.DatasetDict(train=data.shuffle(seed=0), test=data)
    both.save_to_disk(tmp_path / "all", num_shards={"train": 3, "test": 1})
    wanted = [{**row, "label": ["no", "yes"][n % 2]} for n, row in enumerate(rows)]
    assert read(SavedDataset(part="test"), tmp_path / "all") == wanted
    shuffled = read(SavedDataset(part="train"), tmp_path / "all")
    assert [row["text"] for row in shuffled] == data.shuffle(seed=0)["text"][:]


def rows_of(task: Any, folder: Path, path: Path, **data: Any) -> list[dict[str, Any]]:
    spec = DataSpec.model_validate({"train": str(path), "eval": str(path), **data})
    train = build_snapshot(open_store(str(folder / "store")), task, spec).train
    return [{**train.row(index)} for index in range(len(train))]


def test_images_in_a_table_are_bytes_or_paths_beside_it(tmp_path: Path) -> None:
    content = encode_png(np.zeros((3, 4), np.uint8))
    (tmp_path / "x.png").write_bytes(content)
    images = [{"bytes": content, "path": "a.png"}, {"bytes": None, "path": "x.png"}]
    pq.write_table(pa.table({"image": images, "label": ["a", "b"]}), tmp_path / "rows.parquet")
    found = rows_of(Seeing(), tmp_path, tmp_path / "rows.parquet")
    assert [row["image"] for row in found] == [content, str(tmp_path / "x.png")]
    pq.write_table(pa.table({"image": [content, content], "label": ["a", "b"]}), tmp_path / "plain.parquet")
    assert [row["image"] for row in rows_of(Seeing(), tmp_path, tmp_path / "plain.parquet")] == [content] * 2


@pytest.mark.parametrize("as_rows", [True, False])
def test_columns_name_what_lies_inside_of_a_column(tmp_path: Path, as_rows: bool) -> None:
    image = {"bytes": encode_png(np.zeros((9, 9), np.uint8)), "path": None}
    listed = [{"bbox": [1, 2, 3, 4], "kind": "a"}, {"bbox": [0, 0, 2, 2], "kind": "b"}]
    objects = listed if as_rows else {key: [item[key] for item in listed] for key in ("bbox", "kind")}
    pq.write_table(pa.Table.from_pylist([{"image": image, "objects": objects}]), tmp_path / "rows.parquet")
    columns = {"boxes": "objects.bbox", "labels": "objects.kind"}
    [row] = rows_of(Finding(), tmp_path, tmp_path / "rows.parquet", columns=columns)
    assert (row["boxes"], row["labels"]) == ([[1, 2, 3, 4], [0, 0, 2, 2]], ["a", "b"])
    with pytest.raises(DataError, match=r"has no column 'objects\.none'"):
        rows_of(Finding(), tmp_path, tmp_path / "rows.parquet", columns={**columns, "boxes": "objects.none"})


def test_a_column_whose_name_holds_a_dot_is_that_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a.b": "plain", "a": {"b": "inside"}, "value": 1}\n{"a": {"b": "inside"}, "value": 2}\n')
    found = rows_of(Rating(), tmp_path, path, columns={"text": "a.b"})
    assert [row["text"] for row in found] == ["plain", "inside"]


def test_tags_of_a_saved_data_set_are_names(tmp_path: Path) -> None:
    table = pa.table({"tokens": [["a", "b"]], "ner": [[0, 1]]})
    path = saved(tmp_path / "set", table, {"ner": {"feature": NAMES, "_type": "List"}})
    [row] = rows_of(Tagging(), tmp_path, path, columns={"tags": "ner"})
    assert row["tags"] == ["O", "B-x"]
