"""One row that is moved, changed, added or removed is seen in the data of every source."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from doubles.fake_tasks import Finding, Hearing, Outlining, Reading, Seeing, Sorting, Tagging
from regraft.columns.audio import wav
from regraft.contracts import Source, Task
from regraft.data.arrays import encode_png
from regraft.data.snapshot import build_snapshot
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.question_answering import QuestionAnswering
from regraft.tasks.translation import Translation
from unit.data.scans import scan, volume

Numbers = Sequence[int]
Written = tuple[Task, str] | tuple[Task, str, dict[str, Any]]
SENTINEL = 100
ROWS = list(range(12))
CHANGES: dict[str, Callable[[], list[int]]] = {
    "moved": lambda: [ROWS[1], ROWS[0], *ROWS[2:]],
    "changed": lambda: [*ROWS[:5], SENTINEL, *ROWS[6:]],
    "added": lambda: [*ROWS, SENTINEL],
    "removed": lambda: ROWS[:-1],
}


def tiny(number: int) -> bytes:
    """Return a picture; all pictures have the same number of bytes."""
    return encode_png(np.full((8, 8), number, np.uint8))


def label(number: int) -> str:
    return "ab"[number % 2]


def table(numbers: Numbers) -> pa.Table:
    return pa.table({"text": [f"text {n}" for n in numbers], "label": [label(n) for n in numbers]})


def write_csv(folder: Path, numbers: Numbers) -> Written:
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((f"text {n}", label(n)) for n in numbers)])
    return Sorting(), str(folder / "rows.csv")


def write_jsonl(folder: Path, numbers: Numbers) -> Written:
    lines = [json.dumps({"text": f"text {n}", "label": label(n)}) for n in numbers]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return Sorting(), str(folder / "rows.jsonl")


def write_squad(folder: Path, numbers: Numbers) -> Written:
    asked = [{"question": f"what is {n}?", "answers": [{"text": "text", "answer_start": 0}]} for n in numbers]
    paragraphs = [{"context": "text and more", "qas": asked}]
    (folder / "rows.json").write_text(
        json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})
    )
    return QuestionAnswering(), str(folder / "rows.json")


def write_parquet(folder: Path, numbers: Numbers) -> Written:
    pq.write_table(table(numbers), folder / "rows.parquet")
    return Sorting(), str(folder / "rows.parquet")


def write_arrow(folder: Path, numbers: Numbers, name: str = "rows.arrow") -> Written:
    with pa.ipc.new_stream(str(folder / name), table(numbers).schema) as writer:
        writer.write_table(table(numbers))
    return Sorting(), str(folder / name)


def write_saved_dataset(folder: Path, numbers: Numbers) -> Written:
    (folder / "saved").mkdir(exist_ok=True)
    write_arrow(folder / "saved", numbers, "data.arrow")
    (folder / "saved/state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "saved/dataset_info.json").write_text("{}")
    return Sorting(), str(folder / "saved")


def write_text(folder: Path, numbers: Numbers) -> Written:
    (folder / "rows.txt").write_text("\n\n".join(f"text {n}" for n in numbers))
    return Reading(), str(folder / "rows.txt"), {"format": {"type": "text", "per": "paragraph"}}


def write_parallel(folder: Path, numbers: Numbers) -> Written:
    for language in ("en", "de"):
        (folder / f"rows.{language}").write_text("".join(f"{language} {n}\n" for n in numbers))
    columns = {"source": "en", "target": "de"}
    task = Translation(source_language=None, target_language=None)
    return task, f"{folder}/rows.{{en,de}}", {"format": "parallel", "columns": columns}


def write_conll(folder: Path, numbers: Numbers) -> Written:
    (folder / "rows.conll").write_text("\n".join(f"w{n} O\nso B-x\n" for n in numbers))
    return Tagging(), str(folder / "rows.conll")


def write_spans(folder: Path, numbers: Numbers) -> Written:
    lines = [json.dumps({"text": f"Anna saw w{n}", "label": [[0, 4, "person"]]}) for n in numbers]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return Tagging(), str(folder / "rows.jsonl"), {"format": "spans"}


def pictures(folder: Path, numbers: Numbers) -> list[str]:
    """Write pictures whose names are their places; return the names."""
    for old in folder.glob("*.png"):
        old.unlink()
    for place, number in enumerate(numbers):
        (folder / f"{place:02}.png").write_bytes(tiny(number))
    return [f"{place:02}.png" for place in range(len(numbers))]


def write_images(folder: Path, numbers: Numbers) -> Written:
    for name in "ab":
        (folder / "pictures" / name).mkdir(parents=True, exist_ok=True)
        pictures(folder / "pictures" / name, [n + (100 if name == "b" else 0) for n in numbers])
    return Seeing(), str(folder / "pictures")


def write_sounds(folder: Path, numbers: Numbers) -> Written:
    for name in "ab":
        (folder / "sounds" / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / "sounds" / name).glob("*.wav"):
            old.unlink()
        for place, number in enumerate(numbers):
            samples = np.full(80, number + (200 if name == "b" else 0), np.int16)
            (folder / "sounds" / name / f"{place:02}.wav").write_bytes(wav(samples, 8000))
    return Hearing(), str(folder / "sounds")


def write_masks(folder: Path, numbers: Numbers) -> Written:
    for name in ("images", "masks"):
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
        pictures(folder / "data" / name, numbers)
    return Outlining(), str(folder / "data")


def write_coco(folder: Path, numbers: Numbers) -> Written:
    names = pictures(folder, numbers)
    images = [{"id": place, "file_name": name} for place, name in enumerate(names)]
    notes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 2, 2]} for n in range(len(names))]
    document = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "cell"}]}
    (folder / "coco.json").write_text(json.dumps(document))
    return Finding(), str(folder / "coco.json")


def write_voc(folder: Path, numbers: Numbers) -> Written:
    for name in ("JPEGImages", "Annotations"):
        (folder / "voc" / name).mkdir(parents=True, exist_ok=True)
    for old in (folder / "voc/Annotations").glob("*.xml"):
        old.unlink()
    for name in pictures(folder / "voc/JPEGImages", numbers):
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
        document = f"<annotation><filename>{name}</filename><object><name>cell</name>{box}</object></annotation>"
        (folder / "voc/Annotations" / name).with_suffix(".xml").write_text(document)
    return Finding(), str(folder / "voc")


def write_yolo(folder: Path, numbers: Numbers) -> Written:
    for name in ("images", "labels"):
        (folder / "yolo" / name).mkdir(parents=True, exist_ok=True)
    for old in (folder / "yolo/labels").glob("*.txt"):
        old.unlink()
    for name in pictures(folder / "yolo/images", numbers):
        (folder / "yolo/labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (folder / "yolo/data.yaml").write_text("train: images\nval: images\nnames: [cell]\n")
    return Finding(), f"{folder / 'yolo'}#train"


def write_npz(folder: Path, numbers: Numbers) -> Written:
    images = np.stack([np.full((8, 8), n, np.uint8) for n in numbers])
    np.savez(folder / "rows.npz", train_images=images, train_labels=np.asarray(numbers) % 2)
    return Seeing(), f"{folder / 'rows.npz'}#train"


def write_dicom(folder: Path, numbers: Numbers) -> Written:
    for old in folder.glob("scans/*/*.dcm"):
        old.unlink()
    for place, number in enumerate(numbers):
        for name in "ab":
            values = np.arange(64).reshape(8, 8) + number * (1 if name == "a" else 2)
            scan(folder / "scans" / name / f"{place:02}.dcm", values, WindowCenter=50, WindowWidth=200)
    return Seeing(), str(folder / "scans")


def write_nifti(folder: Path, numbers: Numbers) -> Written:
    for old in folder.glob("volumes/*.nii"):
        old.unlink()
    rows = []
    for place, number in enumerate(numbers):
        volume(folder / "volumes" / f"{place:02}.nii", np.arange(64).reshape(8, 8, 1) + number)
        rows.append((f"{place:02}", label(place)))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("volume", "label"), *rows])
    form = {"type": "nifti", "table": str(folder / "labels.csv"), "window": [0, 200]}
    return Seeing(), str(folder / "volumes"), {"format": form}


WRITERS: dict[str, Callable[[Path, Numbers], Written]] = {
    name.removeprefix("write_").replace("_", "-"): value
    for name, value in list(globals().items())
    if name.startswith("write_")
}


def fingerprint(folder: Path, write: Callable[[Path, Numbers], Written], numbers: Numbers) -> str:
    """Write the rows at the same place as before, and return the fingerprint of what is read."""
    task, train, *more = write(folder, numbers)
    data = DataSpec.model_validate({"train": train, "eval": train, **(more[0] if more else {})})
    return build_snapshot(open_store(str(folder / "store")), task, data).fingerprint


def test_every_source_has_a_writer() -> None:
    assert set(WRITERS) == set(Source.names())


@pytest.mark.parametrize("source", sorted(Source.names()))
def test_a_sentinel_row_is_seen(source: str, tmp_path: Path) -> None:
    before = fingerprint(tmp_path, WRITERS[source], ROWS)
    assert fingerprint(tmp_path, WRITERS[source], ROWS) == before, "nothing changed"
    for name, change in CHANGES.items():
        assert fingerprint(tmp_path, WRITERS[source], change()) != before, name
    assert fingerprint(tmp_path, WRITERS[source], ROWS) == before, "and back"
