"""A folder inside of YOLO's images is read with its labels, and the names above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.data.test_yolo import ROBOFLOW, image, rows, text


@pytest.mark.parametrize("named", ["classes.txt", "labels/classes.txt", "data.yaml", ""])
@pytest.mark.parametrize("inside", ["images/train", "images/train/deep", "images"])
def test_a_folder_inside_images_has_its_labels_beside_images(tmp_path: Path, inside: str, named: str) -> None:
    if named:
        text(tmp_path / named, ROBOFLOW if named == "data.yaml" else "cat\ndog\n")
    image(tmp_path / inside / "a.jpg")
    text(tmp_path / inside.replace("images", "labels") / "a.txt")
    assert rows(tmp_path / inside) == [("a.jpg", ["dog" if named else "1"])]
