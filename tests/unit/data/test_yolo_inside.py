"""A folder inside of YOLO's images is read with its labels, and the names above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.data.inputs import find_source
from regraft.data.sources.yolo import Yolo
from unit.data.test_yolo import ROBOFLOW, image, read, rows, text


@pytest.mark.parametrize("named", ["classes.txt", "labels/classes.txt", "data.yaml", ""])
@pytest.mark.parametrize("inside", ["images/train", "images/train/deep", "images"])
def test_a_folder_inside_images_has_its_labels_beside_images(tmp_path: Path, inside: str, named: str) -> None:
    if named:
        text(tmp_path / named, ROBOFLOW if named == "data.yaml" else "cat\ndog\n")
    image(tmp_path / inside / "a.jpg")
    text(tmp_path / inside.replace("images", "labels") / "a.txt")
    assert rows(tmp_path / inside) == [("a.jpg", ["dog" if named else "1"])]


@pytest.mark.parametrize("suffix", [".TXT", ".Txt"])
@pytest.mark.parametrize(
    ("picture", "labels", "names"),
    [
        ("images/A.JPG", "labels/A", "classes"),
        ("A.JPG", "A", "classes"),
        ("train/images/A.JPG", "train/labels/A", "classes"),
        ("images/A.rf.01.JPG", "labels/A.rf.01", "labels/classes"),
    ],
)
def test_suffixes_in_capitals_are_the_same(tmp_path: Path, suffix: str, picture: str, labels: str, names: str) -> None:
    image(tmp_path / picture)
    text(tmp_path / f"{labels}{suffix}")
    text(tmp_path / f"{names}{suffix}", "cat\ndog\n")
    found = [row for row in read(tmp_path) if not row.ignored]
    assert [(row.problem, row.values["labels"]) for row in found] == [(None, ["dog"])]
    assert find_source(tmp_path, "it").key() == "yolo"


def test_labels_in_capitals_without_an_image_are_a_bad_row(tmp_path: Path) -> None:
    image(tmp_path / "images" / "A.JPG")
    text(tmp_path / "labels" / "A.TXT")
    text(tmp_path / "labels" / "B.TXT")
    assert [row.where for row in read(tmp_path) if row.problem] == [str(tmp_path / "labels" / "B.TXT")]


@pytest.mark.parametrize("name", ["data.yaml", "DATA.YAML", "data.YML"])
def test_a_description_in_capitals_is_read(tmp_path: Path, name: str) -> None:
    text(tmp_path / name, ROBOFLOW)
    text(tmp_path / "a.yaml", "names: 1\n")
    image(tmp_path / "train" / "images" / "A.JPG")
    text(tmp_path / "train" / "labels" / "A.TXT")
    assert Yolo().accepts(tmp_path)
    assert rows(tmp_path, part="train") == [("A.JPG", ["dog"])]
