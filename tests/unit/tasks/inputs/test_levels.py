"""Levels of images of 16 bits: said while rows are read, and the same wherever a row is encoded."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import locate
from regraft.columns.image import ImageColumn
from regraft.contracts import Context, Task
from regraft.data.ingest import ingest, ingest_for_evaluation
from regraft.errors import Unsupported
from regraft.serving.row_checks import check_rows
from regraft.spec.sections import DataSpec
from support.image_bases import tiny_mobilenet

NAMES = tuple(key for key in Task.names() if "levels" in Task.lookup(key).model_fields)
CLASSIFICATION = Task.lookup("image-classification")


class Unlimited:
    """An allowance without an end."""

    def decode(self, count: int, described: str) -> None:
        """Charge nothing."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    base = locate(str(tiny_mobilenet(tmp_path_factory.mktemp("base"))))
    return Context(load_processor(base, "image"), ("a", "b"), BaseLoader(base).config)


def greys(number: int, white: int, dtype: Any = np.uint16) -> Image.Image:
    draw = np.random.default_rng(number)
    pixels = np.rint(draw.random((36, 36)) * white)
    pixels[0, 0] = white
    return Image.fromarray(pixels.astype(dtype))


def classes(folder: Path, *whites: int) -> Path:
    """Write class folders of 16-bit images, one for each white in each of the folders."""
    for label in ("round", "square"):
        (folder / label).mkdir(parents=True)
        for number, white in enumerate(whites):
            greys(number + 100 * len(label), white).save(folder / label / f"{number}.png")
    return folder


def notes(folder: Path, scratch: Path, **fields: Any) -> tuple[str, ...]:
    task = CLASSIFICATION.model_validate(fields)
    found = ingest(task, DataSpec(train=str(folder), eval=0.4), scratch).notes
    return tuple(note for note in found if "16 bits" in note)


def test_levels_that_use_a_small_part_of_the_range_are_said_once(tmp_path: Path) -> None:
    folder = classes(tmp_path / "photos", 500, 480, 320, 500)
    [note] = notes(folder, tmp_path)
    assert note == (
        "images of 16 bits use levels up to 500 of 65535, so that few of 256 greys are left: write the levels of black "
        f"and white in task.levels, such as [0, 500]: 8 rows, the first {folder}/round/0.png"
    )
    assert notes(folder, tmp_path, levels=(0, 500)) == ()


@pytest.mark.parametrize("whites", [(500, 500, 65535, 600), (30000, 20000, 40000, 50000)])
def test_nothing_is_said_where_the_range_is_used(whites: tuple[int, ...], tmp_path: Path) -> None:
    assert notes(classes(tmp_path / "photos", *whites), tmp_path) == ()


def test_an_evaluation_says_it_too(tmp_path: Path) -> None:
    folder = classes(tmp_path / "photos", 500, 400)
    task = CLASSIFICATION.model_validate({})
    assert ingest_for_evaluation(task, DataSpec(train=str(folder), labels=("round", "square")), tmp_path).notes


@pytest.mark.parametrize("name", NAMES)
def test_documents_without_levels_are_those_of_the_first_edition(name: str) -> None:
    plain = Task.lookup(name).model_validate({})
    assert "levels" not in plain.model_dump(mode="json")
    written = Task.lookup(name).model_validate({"levels": [0, 4095]})
    document = json.loads(json.dumps(written.model_dump(mode="json")))
    assert document["levels"] == [0, 4095]
    assert Task.parse(document) == written


def test_black_comes_before_white() -> None:
    for levels in ([4095, 0], [7, 7]):
        with pytest.raises(ValidationError, match="black comes first and is below white"):
            CLASSIFICATION.model_validate({"levels": levels})


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_a_path_bytes_and_a_request_are_seen_alike(kind: str, dtype: Any, context: Context, tmp_path: Path) -> None:
    """They are seen as the same image would be that was stretched to 8 bits before."""
    if kind == "PNG" and dtype == np.int32:
        pytest.skip("PNG has no 32 bits")
    task = CLASSIFICATION.model_validate({"levels": [0, 500]})
    image = greys(1, 500, dtype)
    path, stretched = tmp_path / f"a.{kind.lower()}", tmp_path / "b.png"
    image.save(path)
    Image.fromarray(np.rint(np.asarray(image) / 500 * 255).astype(np.uint8)).save(stretched)
    column = ImageColumn()
    received = column.receive(base64.b64encode(path.read_bytes()).decode(), Unlimited())
    values = [str(path), str(stretched), path.read_bytes(), received, io.BytesIO(path.read_bytes())]
    rows = check_rows(task, [{"image": value} for value in values])
    seen = [task.encode({**row, "label": "a"}, context, train=False)["pixel_values"] for row in rows]
    trained = task.encode({"image": str(path), "label": "a"}, context, train=True)["pixel_values"]
    for other in (*seen[1:], trained):
        torch.testing.assert_close(other, seen[0], rtol=0, atol=1e-6)
    assert seen[0].std() > 0.3


def test_a_report_shows_an_image_as_the_model_sees_it(tmp_path: Path) -> None:
    greys(1, 500).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    task = CLASSIFICATION.model_validate({"levels": [0, 500]})
    shown = task.shown({"image": str(tmp_path / "a.png")})["image"]
    assert np.ptp(np.asarray(Image.open(io.BytesIO(shown)))) > 200
    for name in ("b.png", "none.png"):
        assert task.shown({"image": str(tmp_path / name)})["image"] == str(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_that_would_see_other_greys_is_refused(name: str) -> None:
    with pytest.raises(Unsupported, match=r"no place for task\.levels.*serve the model with regraft"):
        Task.lookup(name).model_validate({"levels": [0, 500]}).merge(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", NAMES)
def test_floating_point_pixels_need_levels(name: str, tmp_path: Path) -> None:
    path = tmp_path / "thermal.tif"
    Image.fromarray(np.random.default_rng(0).random((36, 36)).astype(np.float32) * 100 - 20).save(path)
    row = {"image": str(path), "row": 0}
    assert "task.levels" in str(Task.lookup(name).model_validate({}).check(row))
    assert Task.lookup(name).model_validate({"levels": [-20, 80]}).check(row) is None


def test_a_request_of_floating_point_pixels_is_judged_by_the_task(tmp_path: Path) -> None:
    path = tmp_path / "thermal.tif"
    Image.fromarray(np.ones((36, 36), np.float32)).save(path)
    received = ImageColumn().receive_body(path.read_bytes(), Unlimited())
    assert check_rows(CLASSIFICATION.model_validate({"levels": [0, 2]}), [{"image": received}])
