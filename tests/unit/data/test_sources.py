"""What every source promises, asked of each member of the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.contracts import Source
from regraft.data.inputs import data_files, source_of
from regraft.errors import DataError

TEXTS: list[dict[str, Any]] = [{"text": "good, day", "label": "a"}, {"text": "línea\u2028dos", "label": "b"}]
BOXES: list[dict[str, Any]] = [
    {"image": "one.png", "boxes": [[1, 2, 3, 4.5]], "labels": ["cat"]},
    {"image": "two.png", "boxes": [], "labels": []},
]


@dataclass(frozen=True)
class Sample:
    """How a test writes one source's data."""

    good: Callable[[Path], Path]
    """Writes two rows into a folder and returns the path to read."""
    rows: list[dict[str, Any]]
    garbage: Callable[[Path], tuple[Path, str]]
    """Writes what cannot be read; the path, and what `where` must say of it."""


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
    path.write_text(path.read_text().replace('"image_id": 1', '"image_id": 9'))
    return path, f"{path}:annotation 5"


def _images(folder: Path) -> Path:
    for name in ("cat/a.png", "cat/.hidden.png", "cat/notes.txt", "dog/b.JPG"):
        _written(folder / name, "")
    return folder


def _bad_images(folder: Path) -> tuple[Path, str]:
    _images(folder)
    return folder, str(_written(folder / "stray.png", ""))


def _conll(folder: Path) -> Path:
    return _written(
        folder / "sentences.conll",
        "-DOCSTART- -X- O\n\nAnn\u00a0Lee\tB-per\nsaw  O\r\n\t\n \n\nParis\tB-loc\nHilton\tI-loc",
    )


def _bad_conll(folder: Path) -> tuple[Path, str]:
    path = _written(folder / "sentences.iob2", "Ann\tB-per\n\nParis\n")
    return path, f"{path}:3"


SENTENCES = [
    {"tokens": ["Ann\u00a0Lee", "saw"], "tags": ["B-per", "O"]},
    {"tokens": ["Paris", "Hilton"], "tags": ["B-loc", "I-loc"]},
]
SAMPLES = {
    "conll": Sample(_conll, SENTENCES, _bad_conll),
    "csv": Sample(_csv, TEXTS, _bad_csv),
    "jsonl": Sample(_jsonl, TEXTS, _bad_jsonl),
    "parquet": Sample(_parquet, TEXTS, _bad_parquet),
    "coco": Sample(_coco, BOXES, _bad_coco),
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
    assert source_of(path, "it").key() == name


@every_source
def test_gives_the_rows_in_order_and_says_where_they_are(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name].good(tmp_path)
    rows = list(Source.lookup(name)().read(path))
    values = [dict(raw.values) for raw in rows]
    for row in values:
        if "image" in row:
            row["image"] = str(Path(row["image"]).relative_to(tmp_path))
    assert values == SAMPLES[name].rows
    wheres = [raw.where for raw in rows]
    assert len(set(wheres)) == len(wheres)
    assert all(where.startswith(str(path)) for where in wheres)


@every_source
def test_refuses_garbage_by_file_and_row(name: str, tmp_path: Path) -> None:
    path, where = SAMPLES[name].garbage(tmp_path)
    with pytest.raises(DataError) as refused:
        list(Source.lookup(name)().read(path))
    assert refused.value.where == where


@every_source
def test_refuses_bytes_that_are_nothing(name: str, tmp_path: Path) -> None:
    path = _written(tmp_path / "noise.bin", bytes(range(128, 256)) * 40)
    [file] = data_files(str(path), Source.lookup(name)(), tmp_path)
    with pytest.raises(DataError) as refused:
        list(file.rows())
    assert refused.value.where.startswith(str(path))
