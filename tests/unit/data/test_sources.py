"""Conformance of every source: what the contract requires, checked on each member of the folder."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.cli import main
from regraft.contracts import Source
from regraft.data.inputs import find_data_files, find_source
from regraft.errors import DataError
from regraft.media.pixels.images import upright_size
from unit.data.scans import scan, volume

TEXTS: list[dict[str, Any]] = [{"text": "good, day", "label": "a"}, {"text": "línea\u2028dos", "label": "b"}]
BOXES: list[dict[str, Any]] = [
    {"image": "one.png", "boxes": [[1, 2, 3, 4.5]], "labels": ["cat"]},
    {"image": "two.png", "boxes": [], "labels": []},
]


@dataclass(frozen=True)
class Sample:
    """Writers of one source's data for the tests."""

    good: Callable[[Path], Path]
    """Writes a few rows into a folder and returns the path to read."""
    rows: list[dict[str, Any]]
    garbage: Callable[[Path], tuple[Path, str]]
    """Writes a file with an unreadable row, or an unreadable file; returns the path, and what `where` must contain."""


def _written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _csv(folder: Path) -> Path:
    return _written(folder / "rows.csv", '\ufefftext,label\r\n"good, day",a\r\nlínea\u2028dos,b\r\n')


def _bad_csv(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "rows.csv", 'text,label\n"two\nlines",a\nshort\n')
    return path, f"{path}:4"


def _jsonl(folder: Path) -> Path:
    return _written(folder / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TEXTS))


def _bad_jsonl(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "rows.jsonl", '{"text": "a"}\n\n{"text": \n')
    return path, f"{path}:3"


def _parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(TEXTS), folder / "rows.parquet")
    return folder / "rows.parquet"


def _bad_parquet(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "rows.parquet", b"PAR1 no table PAR1")
    return path, f"{path}:1"


def _squad(folder: Path) -> Path:
    answered = {"id": "a", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]}
    open_one = {"id": "b", "question": "Why?", "is_impossible": True, "answers": []}
    paragraph = {"context": "Ann left.", "qas": [answered, open_one]}
    return _written(folder / "squad.json", json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]}))


def _bad_squad(folder: Path) -> tuple[Path, str]:
    path = _squad(folder)
    path.write_text(
        path.read_text().replace('"is_impossible": true, "answers": []', '"is_impossible": true, "answers": [1]')
    )
    return path, f"{path}:2 (b)"


def _coco(folder: Path) -> Path:
    document = {
        "images": [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "two.png"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4.5], "iscrowd": 0},
            {"id": 6, "image_id": 1, "category_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
        "categories": [{"id": 7, "name": "cat"}],
    }
    return _written(folder / "instances.json", json.dumps(document))


def _bad_coco(folder: Path) -> tuple[Path, str]:
    path = _coco(folder)
    path.write_text(path.read_text().replace('"image_id": 1', '"image_id": 9', 1))
    return path, f"{path}:annotation 5"


def _voc(folder: Path) -> Path:
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>6.5</ymax></bndbox>"
    for name, inside in (("one", f"<object><name>cat</name>{box}</object>"), ("two", "")):
        _written(folder / f"JPEGImages/{name}.png", "")
        _written(folder / f"Annotations/{name}.xml", f"<annotation><filename>x</filename>{inside}</annotation>")
    return folder


def _bad_voc(folder: Path) -> tuple[Path, str]:
    _voc(folder)
    return folder, str(_written(folder / "Annotations/three.xml", "<annotation><object></annotation>"))


def _yolo(folder: Path) -> Path:
    for name in ("one.png", "two.png"):
        _written(folder / f"images/{name}", "")
    _written(folder / "labels/one.txt", "0 0.25 0.5 0.1 0.2\n")
    _written(folder / "classes.txt", "cat\n")
    return folder


def _bad_yolo(folder: Path) -> tuple[Path, str]:
    _yolo(folder)
    return folder, f"{_written(folder / 'labels/two.txt', '7 0.25 0.5 0.1 0.2')}:1"


def _dicom(folder: Path) -> Path:
    return scan(folder / "cine.dcm", [[[0, 1, 2], [3, 4, 5]], [[5, 4, 3], [2, 1, 0]]], SOPInstanceUID="1.2")


def _bad_dicom(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "a.dcm", b"no image at all" * 20)
    return path, str(path)


def _nifti(folder: Path) -> Path:
    return volume(folder / "v.nii.gz", np.zeros((3, 4, 2)))


def _bad_nifti(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "v.nii.gz", b"no volume")
    return path, str(path)


def _images(folder: Path) -> Path:
    for name in ("cat/a.png", "cat/.hidden.png", "cat/notes.txt", "dog/b.JPG"):
        _written(folder / name, "")
    return folder


def _bad_images(folder: Path) -> tuple[Path, str]:
    _images(folder)
    return folder, str(_written(folder / "stray.png", ""))


def _sounds(folder: Path) -> Path:
    for name in ("cat/a.wav", "cat/.hidden.wav", "cat/notes.txt", "dog/b.MP3"):
        _written(folder / name, "")
    return folder


def _bad_sounds(folder: Path) -> tuple[Path, str]:
    _sounds(folder)
    return folder, str(_written(folder / "stray.flac", ""))


def _conll(folder: Path) -> Path:
    return _written(
        folder / "sentences.conll",
        "-DOCSTART- -X- O\n\nAnn\u00a0Lee\tB-per\nsaw  O\r\n\t\n \n\nParis\tB-loc\nHilton\tI-loc",
    )


def _bad_conll(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "sentences.iob2", "Ann\tB-per\n\nParis\n")
    return path, f"{path}:3"


def _spans(folder: Path) -> Path:
    row = {"text": "Ann left.", "label": [[0, 3, "per"]]}
    return _written(folder / "rows.spans", json.dumps(row))


def _bad_spans(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "rows.spans", '{"text": "Ann", "label": [[0, 9, "per"]]}')
    return path, f"{path}:1"


def _arrow(folder: Path) -> Path:
    table = pa.Table.from_pylist(TEXTS)
    with pa.ipc.new_file(str(folder / "rows.arrow"), table.schema) as writer:
        writer.write_table(table)
    return folder / "rows.arrow"


def _bad_arrow(folder: Path) -> tuple[Path, str]:
    path = _arrow(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path, f"{path}:1"


def _saved_dataset(folder: Path) -> Path:
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["b", "a"], "_type": "ClassLabel"}}
    rows = [{**row, "label": "ba".index(row["label"])} for row in TEXTS]
    table = pa.Table.from_pylist(rows)
    folder = folder / "saved"
    folder.mkdir()
    for number, part in enumerate((table.slice(0, 1), table.slice(1))):
        with pa.ipc.new_stream(str(folder / f"data-{number}.arrow"), table.schema) as writer:
            writer.write_table(part)
    files = [{"filename": f"data-{number}.arrow"} for number in range(2)]
    _written(folder / "state.json", json.dumps({"_data_files": files, "_split": None}))
    _written(folder / "dataset_info.json", json.dumps({"features": features}))
    return folder


def _bad_saved_dataset(folder: Path) -> tuple[Path, str]:
    path = _saved_dataset(folder)
    return path, str(_written(path / "data-1.arrow", b"no stream"))


def _npz(folder: Path) -> Path:
    images = np.zeros((2, 3, 4), np.uint8)
    np.savez_compressed(folder / "rows.npz", images=images, labels=np.array([[1], [0]]))
    return folder / "rows.npz"


def _bad_npz(folder: Path) -> tuple[Path, str]:
    images = np.full((3, 2, 2), 0.5)
    images[1, 0, 0] = 7
    np.savez(folder / "rows.npz", images=images, labels=np.arange(3))
    return folder / "rows.npz", f"{folder / 'rows.npz'}:2"


def _masks(folder: Path) -> Path:
    for name in ("Images/a.jpg", "Images/b.JPG", "Masks/a_mask.png", "Masks/b.png", "Masks/notes.txt"):
        _written(folder / name, "")
    return folder


def _bad_masks(folder: Path) -> tuple[Path, str]:
    _masks(folder)
    return folder, str(_written(folder / "Images/c.png", ""))


def _text(folder: Path) -> Path:
    return _written(folder / "one.txt", "\ufeffTo be,\r\nor not.\n")


def _bad_text(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "one.txt", " \n")
    return path, f"{path}:1"


def _parallel(folder: Path) -> Path:
    _written(folder / "train.en.gz", gzip.compress(b"One.\r\nTwo.\n"))
    _written(folder / "train.de.gz", gzip.compress(b"Eins.\nZwei."))
    return folder / "train.{en,de}.gz"


def _bad_parallel(folder: Path) -> tuple[Path, str]:
    path = _parallel(folder)
    _written(folder / "train.de.gz", gzip.compress(b"Eins.\n"))
    return path, f"{path}:2"


SENTENCES = [
    {"tokens": ["Ann\u00a0Lee", "saw"], "tags": ["B-per", "O"], "document": "1"},
    {"tokens": ["Paris", "Hilton"], "tags": ["B-loc", "I-loc"], "document": "1"},
]
SCAN: dict[str, Any] = {
    **dict.fromkeys(("study", "series", "view"), ""),
    "image": (3, 2),
    "patient_id": "p1",
    "instance": "1.2",
    "modality": "CT",
}
SAMPLES = {
    "conll": Sample(_conll, SENTENCES, _bad_conll),
    "spans": Sample(
        _spans,
        [
            {
                "text": "Ann left.",
                "label": [[0, 3, "per"]],
                "tokens": ["Ann", "left", "."],
                "tags": ["B-per", "O", "O"],
            }
        ],
        _bad_spans,
    ),
    "csv": Sample(_csv, TEXTS, _bad_csv),
    "squad": Sample(
        _squad,
        [
            {
                "question": "Who?",
                "context": "Ann left.",
                "answers": [{"text": "Ann", "answer_start": 0}],
                "id": "a",
                "title": "t",
            },
            {"question": "Why?", "context": "Ann left.", "answers": [], "id": "b", "title": "t"},
        ],
        _bad_squad,
    ),
    "jsonl": Sample(_jsonl, TEXTS, _bad_jsonl),
    "parquet": Sample(_parquet, TEXTS, _bad_parquet),
    "arrow": Sample(_arrow, TEXTS, _bad_arrow),
    "coco": Sample(_coco, BOXES, _bad_coco),
    "dicom": Sample(_dicom, [{**SCAN, "frame": 1}, {**SCAN, "frame": 2}], _bad_dicom),
    "nifti": Sample(_nifti, [{"image": (3, 4), "volume": "v", "slice": number} for number in range(2)], _bad_nifti),
    "masks": Sample(
        _masks,
        [
            {"image": "Images/a.jpg", "mask": "Masks/a_mask.png"},
            {"image": "Images/b.JPG", "mask": "Masks/b.png"},
        ],
        _bad_masks,
    ),
    "npz": Sample(_npz, [{"image": (4, 3), "label": 1}, {"image": (4, 3), "label": 0}], _bad_npz),
    "parallel": Sample(_parallel, [{"en": "One.", "de": "Eins."}, {"en": "Two.", "de": "Zwei."}], _bad_parallel),
    "saved-dataset": Sample(_saved_dataset, TEXTS, _bad_saved_dataset),
    "text": Sample(_text, [{"text": "To be,\nor not.\n"}], _bad_text),
    "voc": Sample(_voc, [{**row, "image": f"JPEGImages/{row['image']}"} for row in BOXES], _bad_voc),
    "yolo": Sample(
        _yolo,
        [
            {"image": "images/one.png", "boxes": [[0.25, 0.5, 0.1, 0.2]], "labels": ["cat"]},
            {"image": "images/two.png", "boxes": [], "labels": []},
        ],
        _bad_yolo,
    ),
    "sounds": Sample(
        _sounds, [{"audio": "cat/a.wav", "label": "cat"}, {"audio": "dog/b.MP3", "label": "dog"}], _bad_sounds
    ),
    "images": Sample(
        _images, [{"image": "cat/a.png", "label": "cat"}, {"image": "dog/b.JPG", "label": "dog"}], _bad_images
    ),
}
every_source = pytest.mark.parametrize("name", Source.names())


def test_every_source_has_a_sample_here() -> None:
    assert sorted(SAMPLES) == Source.names()


@every_source
def test_every_field_is_documented(name: str) -> None:
    member = Source.lookup(name)
    assert member.__doc__
    undocumented = [key for key, field in member.model_fields.items() if not field.description]
    assert not undocumented


@every_source
def test_round_trips_through_json(name: str) -> None:
    source = Source.lookup(name)()
    assert Source.parse(json.loads(source.model_dump_json())) == source


@every_source
def test_is_picked_by_the_path_alone(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name].good(tmp_path)
    assert find_source(path, "it").key() == name


@every_source
def test_gives_the_rows_in_order_and_says_where_they_are(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name].good(tmp_path)
    rows = [raw for raw in Source.lookup(name)().read(path) if not raw.ignored]
    assert [raw.problem for raw in rows] == [None] * len(rows)
    assert [plain(raw.values, tmp_path) for raw in rows] == SAMPLES[name].rows
    wheres = [raw.where for raw in rows]
    assert len(set(wheres)) == len(wheres)
    assert all(where.startswith(str(path)) for where in wheres)


def plain(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Replace images by their path inside the folder, or by their size if they are bytes."""
    row = dict(values)
    for column in {"image", "mask", "audio"} & row.keys():
        value = row[column]
        row[column] = upright_size(value) if isinstance(value, bytes) else str(Path(value).relative_to(folder))
    return row


@every_source
def test_gives_the_same_when_it_is_read_again(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name].good(tmp_path)
    source = Source.lookup(name)()
    first, second = ([(raw.values, raw.where) for raw in source.read(path)] for _ in range(2))
    assert first == second


@every_source
def test_is_shown_by_the_command_line_with_its_fields(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "sources", name]) == 0
    output = capsys.readouterr().out
    assert all(field in output for field in Source.lookup(name).model_fields)


@every_source
def test_names_garbage_by_file_and_row(name: str, tmp_path: Path) -> None:
    path, where = SAMPLES[name].garbage(tmp_path)
    found = []
    try:
        found += [raw.where for raw in Source.lookup(name)().read(path) if raw.problem]
    except DataError as error:
        found.append(error.where)
    assert found == [where]


@every_source
def test_refuses_bytes_that_are_nothing(name: str, tmp_path: Path) -> None:
    path = _written(tmp_path / "noise.bin", bytes(range(128, 256)) * 40)
    [file] = find_data_files(str(path), Source.lookup(name)(), tmp_path)
    wheres = []
    try:
        wheres += [raw.where for raw in file.rows() if raw.problem or pytest.fail(f"{raw} is a row")]
    except DataError as error:
        wheres.append(error.where)
    assert wheres
    assert all(where.startswith(str(path)) for where in wheres)
