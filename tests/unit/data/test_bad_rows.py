"""One bad row in a thousand: named by file and row, or left out and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from doubles.fake_tasks import Finding, Outlining, Reading, Seeing, Sorting, Tagging
from regraft.contracts import Task
from regraft.data.arrays import encode_png
from regraft.data.ingest import ingest
from regraft.data.snapshot import build_snapshot
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.object_detection import ObjectDetection
from regraft.tasks.semantic_segmentation import SemanticSegmentation
from regraft.tasks.text_classification import TextClassification

ROWS = 1000
BAD = 700
"""Index of the bad row, from 0."""
TINY = encode_png(np.zeros((8, 8), np.uint8))


def tiny(number: int) -> bytes:
    """Write a different image for each row: equal rows would be on one side of the split."""
    return encode_png(np.full((8, 8), number % 256, np.uint8) + np.arange(8, dtype=np.uint8) * np.uint8(number // 256))


@dataclass(frozen=True)
class Kind:
    """One way in which a row can be bad."""

    task: Task
    write: Callable[[Path], tuple[Path, str]]
    """Writes a thousand rows, one of them bad; returns what to read, and the position of the bad row in messages."""
    problem: str
    data: dict[str, Any] = field(default_factory=dict)


def lines(folder: Path, name: str, good: Callable[[int], str], bad: str, header: str = "") -> tuple[Path, str]:
    path = folder / name
    rows = [bad if number == BAD else good(number) for number in range(ROWS)]
    path.write_text("\n".join([*([header] if header else []), *rows]) + "\n")
    return path, f"{path}:{BAD + 1 + bool(header)}"


def table(number: int) -> str:
    return f"text {number},{'ab'[number % 2]}"


def tabbed(number: int) -> str:
    return f"text {number}\t{'ab'[number % 2]}"


def json_row(number: int) -> str:
    return json.dumps({"text": f"text {number}", "label": "ab"[number % 2]})


def sentences(folder: Path) -> tuple[Path, str]:
    path = folder / "rows.conll"
    good = [f"w{number} O\nand O\nso B-x\n" for number in range(ROWS)]
    good[BAD] = "w O\nand\nso B-x\n"
    path.write_text("\n".join(good))
    return path, f"{path}:{4 * BAD + 2}"


def pictures(folder: Path, content: bytes) -> tuple[Path, str]:
    names = [folder / "data" / "ab"[number % 2] / f"{number:04}.png" for number in range(ROWS)]
    for label in "ab":
        (folder / "data" / label).mkdir(parents=True)
    for number, name in enumerate(names):
        name.write_bytes(content if number == BAD else tiny(number))
    return folder / "data", str(names[BAD])


def stray(folder: Path) -> tuple[Path, str]:
    path, _ = pictures(folder, tiny(BAD))
    inside = path / "a" / f"{BAD:04}.png"
    return path, str(inside.rename(path / inside.name))


def struct(folder: Path, content: bytes | None) -> tuple[Path, str]:
    path = folder / "rows.parquet"
    image = [{"bytes": content if number == BAD else tiny(number), "path": None} for number in range(ROWS)]
    labels = ["ab"[number % 2] for number in range(ROWS)]
    pq.write_table(pa.table({"image": image, "label": labels}), path)
    return path, f"{path}:{BAD + 1}"


def fractions(folder: Path) -> tuple[Path, str]:
    images = np.linspace(0, 1, ROWS * 4, dtype=np.float32).reshape(ROWS, 2, 2)
    images[BAD, 1, 1] = np.nan
    np.savez(folder / "rows.npz", train_images=images, train_labels=np.arange(ROWS) % 2)
    return folder / "rows.npz#train", f"{folder / 'rows.npz'}:{BAD + 1}"


def no_class(folder: Path) -> tuple[Path, str]:
    path = folder / "saved"
    path.mkdir()
    label = [-1 if number == BAD else number % 2 for number in range(ROWS)]
    data = pa.table({"text": [str(number) for number in range(ROWS)], "label": label})
    with pa.ipc.new_stream(str(path / "data.arrow"), data.schema) as writer:
        writer.write_table(data)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    info = {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}
    (path / "dataset_info.json").write_text(json.dumps(info))
    return path, f"{path}:{BAD + 1}"


def missing_value(folder: Path) -> tuple[Path, str]:
    path = folder / "rows.arrow"
    text = [None if number == BAD else str(number) for number in range(ROWS)]
    data = pa.table({"text": text, "label": ["ab"[number % 2] for number in range(ROWS)]})
    with pa.ipc.new_stream(str(path), data.schema) as writer:
        writer.write_table(data)
    return path, f"{path}:{BAD + 1}"


def coco(folder: Path, box: object, category: int = 1, name: str = "a.png") -> tuple[Path, str]:
    (folder / "a.png").write_bytes(TINY)
    images: list[dict[str, Any]] = [{"id": number, "file_name": "a.png"} for number in range(ROWS)]
    images[BAD]["file_name"] = name
    notes = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 2, 1 + number / ROWS]}
        for number in range(ROWS)
    ]
    notes[BAD].update(bbox=box, category_id=category)
    document = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "cell"}]}
    (folder / "coco.json").write_text(json.dumps(document))
    return folder / "coco.json", f"{folder / 'coco.json'}:"


def masks(folder: Path, bad: bytes | None) -> tuple[Path, str]:
    for name in ("images", "masks"):
        (folder / "data" / name).mkdir(parents=True)
    for number in range(ROWS):
        (folder / "data" / "images" / f"{number:04}.png").write_bytes(tiny(number))
        if (content := bad if number == BAD else TINY) is not None:
            (folder / "data" / "masks" / f"{number:04}_mask.png").write_bytes(content)
    return folder / "data", str(folder / "data" / "images" / f"{BAD:04}.png")


def document(folder: Path) -> tuple[Path, str]:
    for number in range(ROWS):
        (folder / f"{number:04}.txt").write_text(" \n" if number == BAD else f"text {number}")
    return folder / "*.txt", f"{folder / f'{BAD:04}.txt'}:1"


KINDS = {
    "csv, one cell too few": Kind(
        Sorting(), partial(lines, name="r.csv", good=table, bad="alone", header="text,label"), "has 1 cell for 2"
    ),
    "csv, one cell too many": Kind(
        Sorting(), partial(lines, name="r.csv", good=table, bad="a,b,c", header="text,label"), "has 3 cells for 2"
    ),
    "csv, text after a quote": Kind(
        Sorting(),
        partial(lines, name="r.csv", good=table, bad='"a"b,c', header="text,label"),
        "not readable as a table",
    ),
    "tsv without header, one cell too few": Kind(
        Sorting(),
        partial(lines, name="r.tsv", good=tabbed, bad="alone"),
        "has 1 cell for 2",
        {"format": {"type": "csv", "header": ["text", "label"]}},
    ),
    "jsonl, no JSON": Kind(
        Sorting(), partial(lines, name="r.jsonl", good=json_row, bad='{"text": '), "is not a JSON object on one line"
    ),
    "jsonl, no object": Kind(Sorting(), partial(lines, name="r.jsonl", good=json_row, bad="[1]"), "is a list"),
    "jsonl, a column missing": Kind(
        Sorting(), partial(lines, name="r.jsonl", good=json_row, bad='{"text": "a"}'), "has no 'label'"
    ),
    "label outside of the list": Kind(
        Sorting(),
        partial(lines, name="r.jsonl", good=json_row, bad='{"text": "t", "label": "c"}'),
        "label 'c' is written; data.labels allows b, a",
        {"labels": ["b", "a"]},
    ),
    "empty text": Kind(
        TextClassification(),
        partial(lines, name="r.jsonl", good=json_row, bad='{"text": " ", "label": "a"}'),
        "text is empty",
    ),
    "a document of blanks": Kind(Reading(), document, "is empty"),
    "conll, a word without a tag": Kind(Tagging(), sentences, "has 1 column where the lines before have 2"),
    "an image cut short": Kind(Seeing(), partial(pictures, content=TINY[:20]), "cannot be read"),
    "no image": Kind(Seeing(), partial(pictures, content=b"no image"), "is not an image that can be read"),
    "an image beside the class folders": Kind(Seeing(), stray, "is outside the class folders"),
    "parquet, no image in a structure": Kind(Seeing(), partial(struct, content=b"no"), "the image in this row is no"),
    "parquet, an empty structure": Kind(Seeing(), partial(struct, content=None), "image: is missing"),
    "npz, a pixel that is no number": Kind(Seeing(), fractions, "image: holds values of nan"),
    "saved data set, a row without a class": Kind(Sorting(), no_class, "label: is missing"),
    "arrow, a missing text": Kind(Sorting(), missing_value, "text: is missing"),
    "coco, no box": Kind(Finding(), partial(coco, box=[1, 2, 3]), "bbox is [1, 2, 3]"),
    "coco, an unknown category": Kind(Finding(), partial(coco, box=[1, 1, 2, 2], category=9), "category_id is 9"),
    "coco, no image file": Kind(Finding(), partial(coco, box=[1, 1, 2, 2], name="none.png"), "there is no image"),
    "coco, a path out of the folder": Kind(
        Finding(), partial(coco, box=[1, 1, 2, 2], name="../a.png"), "there is no image"
    ),
    "masks, an image without one": Kind(Outlining(), partial(masks, bad=None), "has no mask: 0700_mask.png or"),
    "masks, one that is no image": Kind(Outlining(), partial(masks, bad=b"no"), "is not an image that can be read"),
    "masks, one of another size": Kind(
        SemanticSegmentation(labels=("ground", "rest")),
        partial(masks, bad=encode_png(np.zeros((8, 9), np.uint8))),
        "has 9 x 8 pixels, and its image 8 x 8",
    ),
    "a box without area": Kind(ObjectDetection(), partial(coco, box=[1, 1, 0, 2]), "1, 1, 0, 2"),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


@every_kind
def test_fail_names_file_and_row_and_skip_leaves_out_that_row_alone(kind: Kind, tmp_path: Path) -> None:
    path, where = kind.write(tmp_path)
    written = {"train": str(path), "eval": 0.1, **kind.data}
    with pytest.raises(DataError) as refused:
        ingest(kind.task, DataSpec.model_validate(written), tmp_path)
    assert refused.value.where.startswith(where)
    assert kind.problem in refused.value.message
    store = open_store(str(tmp_path / "store"))
    snapshot = build_snapshot(store, kind.task, DataSpec.model_validate({**written, "bad_rows": "skip"}))
    assert len(snapshot.train) + len(snapshot.eval) == ROWS - 1
    assert snapshot.skipped["train"] + snapshot.skipped["eval"] == 1
    [message] = snapshot.skipped["rows"]
    assert message.startswith(where)
    assert kind.problem in message


def rows(path: Path, items: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def texts(snapshot_side: Any) -> list[str]:
    return [snapshot_side.row(index)["text"] for index in range(len(snapshot_side))]


def build(folder: Path, **data: Any) -> Any:
    return build_snapshot(open_store(str(folder / "store")), Sorting(), DataSpec.model_validate(data))


GOOD: list[dict[str, Any]] = [
    {"text": f"text {number}", "label": "ab"[number % 2], "patient": number // 4} for number in range(200)
]


def test_a_file_that_is_sound_skips_nothing_and_is_the_same_snapshot(tmp_path: Path) -> None:
    train = rows(tmp_path / "r.jsonl", GOOD)
    plain, skipping = build(tmp_path, train=train), build(tmp_path, train=train, bad_rows="skip")
    assert (skipping.fingerprint, skipping.skipped) == (plain.fingerprint, {})


def test_labels_keep_the_order_that_is_written_even_one_that_no_row_has(tmp_path: Path) -> None:
    snapshot = build(tmp_path, train=rows(tmp_path / "r.jsonl", GOOD), labels=["c", "b", "a"])
    assert snapshot.labels == ("c", "b", "a")


def test_a_label_that_is_listed_may_stand_in_evaluation_rows_alone(tmp_path: Path) -> None:
    held = rows(tmp_path / "e.jsonl", [*GOOD[:5], {"text": "new", "label": "c"}])
    snapshot = build(tmp_path, train=rows(tmp_path / "r.jsonl", GOOD), eval=held, labels=["a", "b", "c"])
    assert "new" in texts(snapshot.eval)


def test_skip_leaves_out_evaluation_rows_of_unseen_labels_each_by_its_own_row(tmp_path: Path) -> None:
    train = rows(tmp_path / "r.jsonl", GOOD)
    held = [
        *GOOD[:3],
        {"text": "x", "label": "c"},
        *GOOD[3:5],
        {"text": "y", "label": "c"},
        {"text": "z", "label": "d"},
    ]
    snapshot = build(tmp_path, train=train, eval=rows(tmp_path / "e.jsonl", held), bad_rows="skip")
    assert texts(snapshot.eval) == [row["text"] for row in GOOD[:5]]
    path = tmp_path / "e.jsonl"
    assert snapshot.skipped == {
        "train": 0,
        "eval": 3,
        "rows": [
            f"{path}:4: label 'c' is in no training row",
            f"{path}:7: label 'c' is in no training row",
            f"{path}:8: label 'd' is in no training row",
        ],
    }
    sound = build(tmp_path, train=train, eval=rows(tmp_path / "sound.jsonl", GOOD[:5]))
    assert snapshot.fingerprint == sound.fingerprint
    with pytest.raises(DataError, match="holds no rows"):
        build(tmp_path, train=train, eval=rows(tmp_path / "e.jsonl", held[3:4]), bad_rows="skip")


def test_a_share_keeps_every_group_on_one_side_whatever_else_is_there(tmp_path: Path) -> None:
    train = rows(tmp_path / "r.jsonl", GOOD)
    snapshot = build(tmp_path, train=train, eval=0.3, group="patient")
    patient = {row["text"]: row["patient"] for row in GOOD}
    left, right = ({patient[text] for text in texts(side)} for side in (snapshot.train, snapshot.eval))
    assert not left & right
    assert (len(left) + len(right), len(snapshot.train) + len(snapshot.eval)) == (50, 200)
    assert 5 < len(right) < 25
    half = build(tmp_path, train=rows(tmp_path / "r.jsonl", GOOD[:100]), eval=0.3, group="patient")
    assert {patient[text] for text in texts(half.eval)} == {one for one in right if one < 25}


def test_given_sides_that_share_a_group_are_refused_with_both_places(tmp_path: Path) -> None:
    train, held = rows(tmp_path / "r.jsonl", GOOD[:100]), rows(tmp_path / "e.jsonl", [*GOOD[100:], GOOD[8]])
    with pytest.raises(DataError) as refused:
        build(tmp_path, train=train, eval=held, group="patient")
    assert refused.value.where == f"{held}:101"
    assert "1 value of 'patient' is in the training rows and in the evaluation rows" in refused.value.message
    assert f"{train}:9" in refused.value.message
    apart = rows(tmp_path / "e.jsonl", GOOD[100:])
    assert len(build(tmp_path, train=train, eval=apart, group="patient").eval) == 100


def test_a_row_without_its_group_is_a_bad_row(tmp_path: Path) -> None:
    train = rows(tmp_path / "r.jsonl", [*GOOD, {"text": "x", "label": "a", "patient": None}])
    with pytest.raises(DataError, match=r"patient: is missing; data\.group keeps rows together by it") as refused:
        build(tmp_path, train=train, group="patient")
    assert refused.value.where == f"{train}:201"
    snapshot = build(tmp_path, train=train, group="patient", bad_rows="skip")
    assert snapshot.skipped["train"] == 1
    assert len(snapshot.train) + len(snapshot.eval) == 200


def test_a_group_that_no_file_has_is_refused_with_the_columns_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'pat' "):
        build(tmp_path, train=rows(tmp_path / "r.jsonl", GOOD), group="pat")


def test_one_group_alone_leaves_a_side_empty(tmp_path: Path) -> None:
    alone = [{**row, "patient": "p"} for row in GOOD]
    with pytest.raises(DataError, match=r"200 rows, split by patient, leaves none to"):
        build(tmp_path, train=rows(tmp_path / "r.jsonl", alone), group="patient")
