"""Folders of images and masks, and parallel texts: matching by name, and files without a match."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.contracts import Raw, Source
from regraft.data.arrays import encode_png
from regraft.data.inputs import find_data_files, find_source
from regraft.data.snapshot import build_snapshot
from regraft.data.sources.images import Images
from regraft.data.sources.masks import Masks
from regraft.data.sources.parallel import Parallel
from regraft.data.sources.text import Text
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.semantic_segmentation import SemanticSegmentation
from support.paths import SHARED

DATA = SHARED / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no {DATA}: set REGRAFT_SHARED to the folder that holds data/"
)


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def pairs(source: Source, folder: Path) -> list[tuple[str, str]]:
    rows = [row for row in source.read(folder) if not row.ignored]
    assert not [row.problem for row in rows if row.problem]
    return [tuple(str(Path(row.values[key]).relative_to(folder)) for key in ("image", "mask")) for row in rows]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Images/a.jpg", "Masks/a.png"),
        ("images/a.jpg", "masks/a_mask.png"),
        ("PNGImages/a.png", "PedMasks/a_mask.png"),
        ("img/a.tif", "labels/a_label.tif"),
        ("imgs/a.b.jpg", "annotations/a.b-seg.png"),
        ("photos/a_mask.jpg", "ground_truth/a_mask.png"),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
        ("a.jpg", "a_mask.png"),
        ("crack/a.jpg", "crack/a_gt.bmp"),
    ],
)
def test_a_mask_is_found_by_its_images_name(tmp_path: Path, image: str, mask: str) -> None:
    touched(tmp_path, image, mask, "readme.txt", "Annotation/a.txt")
    assert find_source(tmp_path, "it").key() == "masks"
    assert pairs(Masks(), tmp_path) == [(image, mask)]


def test_masks_beside_images_in_class_folders_bring_the_label(tmp_path: Path) -> None:
    touched(tmp_path, "crack/1.jpg", "crack/1_mask.png", "fray/1.jpg", "fray/1_mask.png")
    assert [row.values["label"] for row in Masks().read(tmp_path)] == ["crack", "fray"]


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    touched(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg", "images/c.png", "masks/a.png", "masks/z.png")
    touched(tmp_path, "images/d.jpg", "masks/d.png", "masks/d_mask.png", "masks/c.png")
    problems = {str(Path(row.where).relative_to(tmp_path)): row.problem for row in Masks().read(tmp_path)}
    assert problems == {
        "images/a.jpg": None,
        "images/b.jpg": f"has no mask: b_mask.png or b.png is looked for in {tmp_path}/masks",
        "images/c.jpg": "2 images of this name have 1 masks (c.png): one for each is wanted",
        "images/c.png": f"has no mask: c_mask.png or c.png is looked for in {tmp_path}/masks",
        "images/d.jpg": "1 images of this name have 2 masks (d.png, d_mask.png): one for each is wanted",
        "masks/z.png": "is a mask without an image: add the image, or move it away",
    }


def test_an_image_without_a_mask_may_be_one_without_anything_on_it(tmp_path: Path) -> None:
    touched(tmp_path, "bad/1.png", "bad/1_mask.png", "good/3.png")
    (tmp_path / "good" / "2.png").write_bytes(encode_png(np.zeros((3, 4), np.uint8)))
    one, two, three = Masks(missing="zero").read(tmp_path)
    assert one.values["mask"] == f"{tmp_path}/bad/1_mask.png"
    assert two.values["mask"] == encode_png(np.zeros((3, 4), np.uint8))
    assert three.problem


def test_folders_are_named_where_their_names_are_their_own(tmp_path: Path) -> None:
    touched(tmp_path, "photos/a.jpg", "truth/a.png", "old/a.png")
    with pytest.raises(DataError, match=r"as in \{type: masks, images: photos, masks: truth\}"):
        list(Masks().read(tmp_path))
    assert pairs(Masks(images="photos", masks="truth"), tmp_path) == [("photos/a.jpg", "truth/a.png")]
    with pytest.raises(DataError, match=r"data\.format names one of two folders: write images, too"):
        list(Masks(masks="truth").read(tmp_path))
    with pytest.raises(DataError, match=r"data\.format\.masks names 'none', and there is no such folder"):
        list(Masks(images="photos", masks="none").read(tmp_path))


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("ants/a.jpg", "bees/b.jpg"), "images"),
        (("train/ants/a.jpg", "val/ants/b.jpg"), "images"),
        (("images/a.jpg", "masks/a.png"), "masks"),
        (("labels/a.jpg", "masks/a.png"), "images"),
        (("a.jpg", "b.png"), "images"),
        (("cat/a.png", "dog/a.png", "cat/meow.mp3"), "images"),
        (("images/a.jpg", "labels/a.txt", "images/meow.mp3"), "yolo"),
        (("images/a.jpg", "masks/a.png", "masks/meow.m4a"), "masks"),
        (("JPEGImages/a.jpg", "Annotations/a.xml", "JPEGImages/meow.mp3"), "voc"),
        (("cat/meow.mp3", "dog/woof.m4a", "cover.jpg"), "sounds"),
        (("images/a.jpg", "labels/a.txt"), "yolo"),
        (("train/images/a.jpg", "train/labels/a.txt", "valid/images/b.jpg"), "yolo"),
        (("JPEGImages/a.jpg", "Annotations/a.xml"), "voc"),
        (("train/state.json", "train/data.arrow", "dataset_dict.json"), "saved-dataset"),
    ],
)
def test_a_folder_is_recognised_by_its_layout(tmp_path: Path, names: tuple[str, ...], key: str) -> None:
    if key in Source.names():
        assert find_source(touched(tmp_path, *names), "it").key() == key


def test_a_folder_of_other_things_is_no_sources(tmp_path: Path) -> None:
    touched(tmp_path, "data/part-1.csv", "notes.txt")
    with pytest.raises(DataError, match="no source reads it by its name"):
        find_source(tmp_path, str(tmp_path))


def test_images_beside_class_folders_are_bad_rows(tmp_path: Path) -> None:
    touched(tmp_path, "cat/a.png", "stray.png")
    assert [(row.where, bool(row.problem)) for row in Images().read(tmp_path)] == [
        (f"{tmp_path}/stray.png", True),
        (f"{tmp_path}/cat/a.png", False),
    ]


def test_images_without_class_folders_are_rows_without_a_label(tmp_path: Path) -> None:
    touched(tmp_path, "b.jpg", "a.PNG", "notes.txt")
    assert [row.values for row in Images().read(tmp_path) if not row.ignored] == [
        {"image": f"{tmp_path}/{name}"} for name in ("a.PNG", "b.jpg")
    ]
    files = list(find_data_files(f"{tmp_path}/*.jpg", None, tmp_path))
    assert [[row.values for row in file.rows()] for file in files] == [[{"image": f"{tmp_path}/b.jpg"}]]


SPOKEN = "\n\nTo be,\r\n  or not.  \n \n\t\nThat is\nthe question"


@pytest.mark.parametrize(
    ("per", "rows"),
    [
        ("document", [(1, "\n\nTo be,\n  or not.  \n \n\t\nThat is\nthe question")]),
        ("paragraph", [(3, "To be,\n  or not.  "), (7, "That is\nthe question")]),
        ("line", [(3, "To be,"), (4, "  or not.  "), (7, "That is"), (8, "the question")]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_text_by_document_paragraph_or_line(tmp_path: Path, per: Any, rows: Any, packed: bool) -> None:
    path = tmp_path / ("a.txt.gz" if packed else "a.txt")
    path.write_bytes(gzip.compress(SPOKEN.encode()) if packed else SPOKEN.encode())
    found = [(row.where, row.values["text"]) for row in Text(per=per).read(path)]
    assert found == [(f"{path}:{line}", text) for line, text in rows]


def test_a_file_of_blanks_is_a_bad_row_and_no_paragraph(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n\n")
    [row] = Text().read(tmp_path / "a.txt")
    assert row.problem == "is empty: write some text into it, or leave it out"
    assert list(Text(per="line").read(tmp_path / "a.txt")) == []


def parallel(folder: Path, **texts: str) -> list[Raw]:
    for name, text in texts.items():
        (folder / f"t.{name}").write_text(text, newline="")
    return list(Parallel().read(folder / f"t.{{{','.join(texts)}}}"))


def test_lines_of_several_files_are_rows(tmp_path: Path) -> None:
    rows = parallel(tmp_path, en="a\r\n\nc", de="x\ny\u2028\nz\n", fr="1\n2\n3")
    assert [row.values for row in rows] == [
        {"en": "a", "de": "x", "fr": "1"},
        {"en": "", "de": "y\u2028", "fr": "2"},
        {"en": "c", "de": "z", "fr": "3"},
    ]
    assert rows[2].where == f"{tmp_path}/t.{{en,de,fr}}:3"


def test_files_of_unequal_length_are_refused_with_their_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        parallel(tmp_path, en="a\nb\n", de="x\n" * 5, fr="1\n2\n3")
    assert refused.value.where == f"{tmp_path}/t.{{en,de,fr}}:3"
    assert refused.value.message == (
        f"the files do not correspond line by line: {tmp_path}/t.en has 2 lines, {tmp_path}/t.de has 5 lines, "
        f"{tmp_path}/t.fr has 3 lines"
    )


def test_one_file_alone_is_reported_with_how_to_write_it(tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("a\n")
    with pytest.raises(DataError, match=r"written with braces: train\.\{en,de\}\.txt"):
        list(Parallel().read(tmp_path / "t.en"))


def counted(written: str, folder: Path, form: Source | None = None) -> tuple[str, int, int]:
    [file] = find_data_files(written, form, folder)
    rows = [row for row in file.rows() if not row.ignored]
    return file.source.key(), sum(not row.problem for row in rows), sum(bool(row.problem) for row in rows)


@needs_data
def test_published_folders_and_texts_are_read(tmp_path: Path) -> None:
    assert counted(f"{DATA}/pennfudan", tmp_path) == ("masks", 170, 0)
    assert counted(f"{DATA}/magnetic_tile", tmp_path) == ("masks", 392, 240)
    assert counted(f"{DATA}/magnetic_tile", tmp_path, Masks(missing="zero")) == ("masks", 632, 0)
    assert counted(f"{DATA}/multi30k/val.{{en,de,fr}}.gz", tmp_path) == ("parallel", 1014, 0)
    assert counted(f"{DATA}/tinyshakespeare/input.txt", tmp_path, Text(per="paragraph")) == ("text", 7222, 0)
    assert counted(f"{DATA}/hymenoptera/train", tmp_path) == ("images", 244, 0)


@needs_data
def test_sst2_without_a_header_is_read_by_what_the_format_says(tmp_path: Path) -> None:
    form = Source.parse({"type": "csv", "header": ["text", "label"], "quote": None})
    assert isinstance(form, Source)
    assert counted(f"{DATA}/sst2/train.tsv", tmp_path, form) == ("csv", 6920, 0)


@needs_data
def test_penn_fudan_is_a_snapshot_of_images_and_masks(tmp_path: Path) -> None:
    task = SemanticSegmentation(labels=("background", "person"), values="nonzero")
    data = DataSpec(train=f"{DATA}/pennfudan", eval=0.3)
    snapshot = build_snapshot(open_store(str(tmp_path / "store")), task, data)
    assert len(snapshot.train) + len(snapshot.eval) == 170
    row = snapshot.train.row(0)
    assert Path(row["mask"]).stem == f"{Path(row['image']).stem}_mask"
