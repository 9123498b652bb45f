"""What rows are known by: the bytes that they name, wherever these are; and a rare label keeps a training row."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.data.ingest import BY_NAME, FORMAT, ingest
from regraft.data.rows import Rows
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.image_classification import ImageClassification
from regraft.tasks.text_classification import TextClassification
from regraft.tasks.text_multi_label import TextMultiLabel
from regraft.trunk.feature_store import row_hashes


def picture(seed: int) -> bytes:
    """Return a picture; all of them have the same size in bytes."""
    noise = np.random.default_rng(seed).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "BMP")
    return file.getvalue()


def folders(root: Path, each: int = 20, first: int = 0) -> Path:
    """Write class folders whose pictures differ in content alone: folders of one picture each would be refused."""
    for label in "ab":
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            body = picture(first + number + (1000 if label == "b" else 0))
            (root / label / f"{number:02}.bmp").write_bytes(body)
    return root


def built(folder: Path, train: Path, task: Any = None, **data: Any) -> Snapshot:
    spec = DataSpec.model_validate({"train": str(train), "eval": 0.4, **data})
    return build_snapshot(open_store(str(folder / "store")), task or ImageClassification(), spec)


def test_pictures_of_one_name_and_size_but_other_content_are_other_rows(tmp_path: Path) -> None:
    train = folders(tmp_path / "pics")
    before = built(tmp_path, train)
    folders(train, first=5000)
    after = built(tmp_path, train)
    assert before.fingerprint != after.fingerprint
    assert built(tmp_path, folders(train)).fingerprint == before.fingerprint


def test_pictures_of_one_name_and_size_are_split_by_their_content(tmp_path: Path) -> None:
    rows = []
    for number in range(40):
        folder = tmp_path / f"case-{number}"
        folder.mkdir()
        (folder / "scan.bmp").write_bytes(picture(number))
        rows.append((f"case-{number}/scan.bmp", "ab"[number % 2]))
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *rows])
    held = built(tmp_path, tmp_path / "rows.csv")
    assert 5 < len(held.eval) < 28


def test_the_trunk_store_knows_a_picture_by_the_bytes_that_were_checked(tmp_path: Path) -> None:
    train = folders(tmp_path / "pics", each=5)
    snapshot = built(tmp_path, train)
    hashes = row_hashes(snapshot.train, ["image"])
    folders(train, each=5, first=5000)
    assert (row_hashes(snapshot.train, ["image"]) == hashes).all(), "of the snapshot's content, not of the new files'"
    with pytest.raises(DataError, match="holds other bytes"):
        ImageClassification().encode({**snapshot.train.row(0), "label": None}, None, train=False)  # type: ignore[arg-type]
    assert not set(row_hashes(built(tmp_path, train).train, ["image"])) & set(hashes)


def test_rows_of_the_first_edition_keep_their_fingerprint(tmp_path: Path) -> None:
    train = folders(tmp_path / "pics", each=6)
    spec = DataSpec.model_validate({"train": str(train), "eval": 0.4})
    for name in "cd":
        (tmp_path / name).mkdir()
    old = ingest(ImageClassification(), spec, tmp_path / "c", form=BY_NAME)
    new = ingest(ImageClassification(), spec, tmp_path / "d")
    assert (old.format, new.format) == (BY_NAME, FORMAT) and old.fingerprint != new.fingerprint
    kept = Rows(old.files["train.arrow"], {"image": "image", "label": "label"}).stored(0)["image"]
    assert not kept.sha256, "known by its name, as its snapshot's rows were"
    store = open_store(str(tmp_path / "store"))
    first = build_snapshot(store, ImageClassification(), spec)
    assert build_snapshot(store, ImageClassification(), spec, as_in=first.fingerprint).fingerprint == first.fingerprint


def test_rows_without_files_have_the_first_editions_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"t{n},{'ab'[n % 2]}\n" for n in range(30)))
    snapshot = built(tmp_path, tmp_path / "rows.csv", TextClassification())
    assert snapshot.meta["format"] == BY_NAME


def table(folder: Path, rows: list[tuple[str, str]]) -> Path:
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return folder / "rows.csv"


COMMON = [(f"text {number}", "ab"[number % 2]) for number in range(60)]


def test_of_each_label_one_row_stays_in_training_and_the_rest_is_split_as_before(tmp_path: Path) -> None:
    plain = built(tmp_path, table(tmp_path, COMMON), TextClassification(), eval=0.3)
    rare = [(f"rare {number}", f"only-{number}") for number in range(8)]
    mixed = built(tmp_path, table(tmp_path, COMMON + rare), TextClassification(), eval=0.3)

    def texts(rows: Rows) -> list[str]:
        return [rows.row(index)["text"] for index in range(len(rows))]

    assert {f"only-{number}" for number in range(8)} <= set(mixed.labels)
    assert [text for text in texts(mixed.eval) if text.startswith("text")] == texts(plain.eval)
    assert sorted(texts(mixed.train) + texts(mixed.eval)) == sorted(text for text, _ in COMMON + rare)
    [note] = mixed.notes
    assert note.startswith("data.eval as a share put all rows of the labels 'only-")
    again = built(tmp_path, table(tmp_path, COMMON + rare), TextClassification(), eval=0.3)
    assert again.fingerprint == mixed.fingerprint


def test_a_row_of_several_rare_labels_moves_once(tmp_path: Path) -> None:
    rows = [*COMMON, *((f"rare {number}", f"x{number}|y{number}") for number in range(6))]
    lines = "".join(f'{{"text": "{text}", "labels": {list(label.split("|"))!r}}}\n' for text, label in rows)
    (tmp_path / "rows.jsonl").write_text(lines.replace("'", '"'))
    snapshot = built(tmp_path, tmp_path / "rows.jsonl", TextMultiLabel(), eval=0.3)
    assert {f"{letter}{number}" for letter in "xy" for number in range(6)} <= set(snapshot.labels)
    assert len(snapshot.train) + len(snapshot.eval) == len(rows)
