"""Masks of other tools: equal channels, transparency, colours, and files that compression has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.contracts import Row
from regraft.spec.run import RunSpec
from regraft.tasks.semantic_segmentation import SemanticSegmentation

NUMBERS = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]], np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def row(folder: Path, mask: Image.Image, name: str = "mask.png", **saving: Any) -> Row:
    """Save a mask and an image of its size; return their row."""
    Image.new("RGB", mask.size).save(folder / "image.png")
    mask.save(folder / name, **saving)
    return {"row": 0, "image": str(folder / "image.png"), "mask": str(folder / name)}


def numbers(task: SemanticSegmentation, found: Row) -> Any:
    assert task.check(found) is None
    return task._mask_values.numbers(found["mask"])


def coloured(*colours: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(np.array(colours, np.uint8)[NUMBERS])


def with_alpha(grey: Any, alpha: Any) -> Image.Image:
    return Image.merge("RGBA", [Image.fromarray(grey.astype(np.uint8))] * 3 + [Image.fromarray(alpha.astype(np.uint8))])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L"])
def test_equal_channels_are_one(tmp_path: Path, mode: str) -> None:
    found = row(tmp_path, Image.fromarray(NUMBERS).convert(mode))
    assert (numbers(SemanticSegmentation(), found) == NUMBERS).all()


def test_black_that_is_transparent_is_black(tmp_path: Path) -> None:
    found = row(tmp_path, with_alpha(NUMBERS * 255, NUMBERS * 255))
    assert (numbers(SemanticSegmentation(values="nonzero"), found) == NUMBERS).all()


@pytest.mark.parametrize("values", ["classes", "nonzero"])
def test_a_mask_that_is_transparent_everywhere_is_empty(tmp_path: Path, values: Any) -> None:
    found = row(tmp_path, with_alpha(NUMBERS * 0, NUMBERS * 0))
    assert (numbers(SemanticSegmentation(values=values), found) == 0).all()


@pytest.mark.parametrize("grey", [NUMBERS * 0, NUMBERS * 0 + 255, NUMBERS])
def test_shapes_in_transparency_alone_have_two_readings(tmp_path: Path, grey: Any) -> None:
    found = row(tmp_path, with_alpha(grey, (1 - NUMBERS) * 255))
    for task in (SemanticSegmentation(), SemanticSegmentation(values="nonzero")):
        assert "holds its shapes in transparency" in str(task.check(found))


def test_colours_are_read_by_the_map_that_is_written(tmp_path: Path) -> None:
    colours = {"background": "#0000ff", "object": "#FF0000"}
    for image in (coloured(BLUE, RED), coloured(BLUE, RED).convert("RGBA"), coloured(BLUE, RED).quantize(4)):
        found = row(tmp_path, image)
        assert (numbers(SemanticSegmentation(colours=colours), found) == NUMBERS).all()
    reverse = SemanticSegmentation(labels=("object", "background"), colours=colours)
    assert (numbers(reverse, found) == 1 - NUMBERS).all()


def test_a_colour_may_be_left_out(tmp_path: Path) -> None:
    colours = {"background": "#000000", "object": "#ff0000"}
    found = row(tmp_path, coloured((0xE0, 0xE0, 0xC0), RED))
    task = SemanticSegmentation(colours=colours, ignore=0xE0E0C0)
    assert (numbers(task, found) == np.where(NUMBERS == 1, 1, -1)).all()
    assert (
        "holds colours of no label: #e0e0c0; task.colours has background #000000, object #ff0000. Add a label, or name "
        "a colour to leave out in task.ignore, as in 0xe0e0c0"
    ) in str(SemanticSegmentation(colours=colours).check(found))


def test_colours_without_a_map_are_shown_with_the_way(tmp_path: Path) -> None:
    message = str(SemanticSegmentation().check(row(tmp_path, coloured(BLUE, RED))))
    assert "has 3 channels (RGB) with 2 colours (#0000ff, #ff0000)" in message
    assert "task.colours, as in {background: '#0000ff', object: '#ff0000'}" in message
    many = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3))
    assert "with 12 colours" in str(SemanticSegmentation().check(row(tmp_path, many)))


def test_any_colour_but_black_is_the_second_label_where_that_is_written(tmp_path: Path) -> None:
    found = row(tmp_path, coloured((0, 0, 0), (0, 9, 0)))
    assert (numbers(SemanticSegmentation(values="nonzero"), found) == NUMBERS).all()


BLOCKS = np.kron(NUMBERS, np.ones((16, 16), np.uint8))


@pytest.mark.parametrize("quality", [60, 95])
def test_a_jpeg_of_black_and_white_is_read_where_that_is_written_and_said(tmp_path: Path, quality: int) -> None:
    task = SemanticSegmentation(values="nonzero")
    found = row(tmp_path, Image.fromarray(BLOCKS * 255), "mask.jpg", quality=quality)
    assert (numbers(task, found) == BLOCKS).all()
    assert "is a JPEG" in str(task.remark(found))
    assert numbers(task, row(tmp_path, Image.new("L", (8, 8)), "mask.jpg")).max() == 0
    assert task.remark(row(tmp_path, Image.fromarray(BLOCKS))) is None


def test_a_jpeg_of_colours_is_read_by_the_nearest_and_said(tmp_path: Path) -> None:
    task = SemanticSegmentation(colours={"background": "#0000ff", "object": "#ff0000"})
    colours = Image.fromarray(np.array([BLUE, RED], np.uint8)[BLOCKS])
    found = row(tmp_path, colours, "mask.jpg", quality=90, subsampling=0)
    assert (numbers(task, found) == BLOCKS).mean() > 0.99
    assert "nearest colour" in str(task.remark(found))


@pytest.mark.parametrize("task", [SemanticSegmentation(), SemanticSegmentation(values="nonzero")])
def test_a_jpeg_of_class_numbers_is_refused_with_the_way(tmp_path: Path, task: SemanticSegmentation) -> None:
    message = str(task.check(row(tmp_path, Image.fromarray(BLOCKS * 9), "mask.jpg", quality=95)))
    assert "is a JPEG, whose compression changes class numbers: save the masks as PNG" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colours": {"background": "#000000"}}, "labels are background, object: write one for each"),
        ({"colours": {"background": "#000000", "object": "#000000"}}, "have one colour"),
        ({"colours": {"background": "#000000", "object": "#000001"}, "ignore": 1}, "have one colour"),
        ({"colours": {"background": "#000000", "object": "#00001f"}, "first": 1}, "leave out values and first"),
        ({"colours": {"background": "black", "object": "#00001f"}}, "pattern"),
    ],
)
def test_colours_that_have_no_single_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticSegmentation(**fields)


def test_a_mask_of_the_stored_picture_says_that_the_picture_is_turned(tmp_path: Path) -> None:
    found = row(tmp_path, Image.fromarray(NUMBERS))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 3)).save(tmp_path / "image.png", exif=exif)
    assert "has 4 x 3 pixels, and its image 3 x 4 after its EXIF orientation: turn the mask too" in str(
        SemanticSegmentation().check(found)
    )


def test_names_of_runs_stay_where_no_colours_are_written() -> None:
    spec = {"name": "n", "base": "b", "task": "semantic-segmentation", "method": "full", "data": {"train": "x"}}
    assert "colours" not in RunSpec.resolve(spec).model_dump(mode="json")["task"]
