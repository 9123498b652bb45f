"""PASCAL VOC documents: positions of boxes, the image of a document, and errors in documents."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from regraft.contracts import Raw
from regraft.data.ingest import IngestedRows, ingest
from regraft.data.rows import Rows
from regraft.data.sources.voc import Voc
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.tasks.object_detection import ObjectDetection
from support.paths import SHARED

BCCD = SHARED / "data" / "bccd"


def thing(name: str, *corners: float, extra: str = "") -> str:
    sides = "".join(f"<{key}>{value:g}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))  # noqa: B905
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


def document(folder: Path, name: str, *objects: str, filename: str = "", picture: bool = True) -> Path:
    """Write one document and its image of 40 x 20 pixels into VOC's folders."""
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    (folder / "JPEGImages").mkdir(exist_ok=True)
    if picture:
        Image.new("RGB", (40, 20)).save(folder / "JPEGImages" / f"{name}.jpg")
    path = folder / "Annotations" / f"{name}.xml"
    path.write_text(f"<annotation><filename>{filename or name}.jpg</filename>{''.join(objects)}</annotation>")
    return path


def read(path: Path, source: Voc | None = None) -> list[Raw]:
    return list((source or Voc()).read(path))


def test_corners_are_counted_from_one_and_both_inside_the_box(tmp_path: Path) -> None:
    document(tmp_path, "a", thing("cat", 1, 1, 40, 20), thing("dog", 11, 6, 12, 6.5))
    [row] = read(tmp_path)
    assert row.values["boxes"] == [[0, 0, 40, 20], [10, 5, 2, 1.5]]
    assert row.values["labels"] == ["cat", "dog"]
    assert ObjectDetection().check(row.values) is None


@pytest.mark.parametrize("corners", [(5, 5, 5, 5), (5, 5, 5, 9), (5, 9, 8, 9), (8, 5, 5, 9)])
def test_corners_without_area_stay_without_area(tmp_path: Path, corners: tuple[float, ...]) -> None:
    document(tmp_path, "a", thing("cat", 1, 1, 9, 9), thing("cat", *corners))
    [row] = read(tmp_path)
    assert "box 1 is" in str(ObjectDetection().check(row.values))
    assert "has no area" in str(ObjectDetection().check(row.values))


def test_corners_counted_from_zero_are_within_the_slack(tmp_path: Path) -> None:
    document(tmp_path, "a", thing("cat", 0, 0, 39, 19))
    [row] = read(tmp_path)
    assert ObjectDetection().check(row.values) is None


@pytest.mark.parametrize("mark", ["1", "true", "True", " 1 "])
def test_difficult_objects_are_left_out_unless_asked_for(tmp_path: Path, mark: str) -> None:
    hard = f"<difficult>{mark}</difficult>"
    document(tmp_path, "a", thing("cat", 1, 1, 9, 9, extra=hard), thing("dog", 1, 1, 9, 9))
    left_out, row = read(tmp_path)
    assert (left_out.ignored, row.values["labels"]) == ("objects that are marked as difficult", ["dog"])
    assert [row.values["labels"] for row in read(tmp_path, Voc(difficult="keep"))] == [["cat", "dog"]]


def test_a_document_in_an_encoding_that_does_not_exist_is_a_bad_row(tmp_path: Path) -> None:
    path = document(tmp_path, "a")
    path.write_text('<?xml version="1.0" encoding="klingon"?>' + path.read_text())
    [row] = read(tmp_path)
    assert "is not readable as XML" in str(row.problem) and "klingon" in str(row.problem)


def test_parts_of_an_object_are_no_objects(tmp_path: Path) -> None:
    inner = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    document(tmp_path, "a", thing("person", 3, 3, 9, 9, extra=inner))
    [row] = read(tmp_path)
    assert row.values["labels"] == ["person"]
    assert row.values["boxes"] == [[2, 2, 7, 7]]


def test_a_split_is_read_in_its_own_order_and_its_missing_documents_are_named(tmp_path: Path) -> None:
    for name in "abc":
        document(tmp_path, name, thing("cat", 1, 1, 9, 9))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("c\n\na  1\ngone\n")
    rows = read(tmp_path, Voc(part="train"))
    assert [Path(row.where).stem for row in rows] == ["c", "a", "gone"]
    assert [row.problem for row in rows] == [None, None, "does not exist, though the split 'train' names it"]
    with pytest.raises(DataError, match="has no split 'trian'; did you mean 'train'"):
        read(tmp_path, Voc(part="trian"))


def test_the_list_of_a_split_may_have_its_suffix_in_capitals(tmp_path: Path) -> None:
    document(tmp_path, "a", thing("cat", 1, 1, 9, 9))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.TXT").write_text("a\n")
    assert [Path(row.where).stem for row in read(tmp_path, Voc(part="train"))] == ["a"]


def test_documents_beside_their_images_are_read(tmp_path: Path) -> None:
    path = document(tmp_path, "a", thing("cat", 1, 1, 9, 9)).rename(tmp_path / "a.xml")
    Image.new("RGB", (40, 20)).save(tmp_path / "a.PNG")
    (tmp_path / "Annotations").rmdir()
    assert [row.values["image"] for row in read(tmp_path)] == [str(tmp_path / "a.PNG")]
    assert read(tmp_path)[0].values == read(path)[0].values


def test_a_renamed_document_keeps_to_the_image_of_its_own_name(tmp_path: Path) -> None:
    document(tmp_path, "old", thing("cat", 1, 1, 9, 9))
    document(tmp_path, "new", thing("cat", 1, 1, 9, 9), filename="old")
    document(tmp_path, "third", thing("cat", 1, 1, 9, 9), filename="C:\\there\\old", picture=False)
    named = {Path(row.where).stem: Path(row.values["image"]).name for row in read(tmp_path)}
    assert named == {"old": "old.jpg", "new": "new.jpg", "third": "old.jpg"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "is not readable as XML: no element found"),
        ("", "is not readable as XML: no element found"),
        ("<data/>", "is not a VOC document: it holds <data>"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "DTD declarations are"),
        (f"<annotation>{thing('', 1, 1, 2, 2)}</annotation>", "object 1 has no <name>"),
        ("<annotation><object><name>cat</name></object></annotation>", "object 1 (cat): <xmin> is missing"),
        (f"<annotation>{thing('cat', 1, 1, 2)}</annotation>", "object 1 (cat): <ymax> is missing"),
        (f"<annotation>{thing('cat', float('nan'), 1, 2, 2)}</annotation>", "<xmin> is 'nan'; a number"),
        ("<annotation><filename>../../b.jpg</filename></annotation>", "holds no image 'b' and no 'b.jpg'"),
    ],
)
def test_one_bad_document_is_named_and_the_others_are_read(tmp_path: Path, text: str, message: str) -> None:
    for name in "ac":
        document(tmp_path, name, thing("cat", 1, 1, 9, 9))
    bad = tmp_path / "Annotations" / "b.xml"
    bad.write_text(text)
    rows = read(tmp_path)
    assert [row.problem is None for row in rows] == [True, False, True]
    assert rows[1].where == str(bad)
    assert message in str(rows[1].problem)


def test_the_two_dirty_boxes_of_bccd_are_named_by_file(tmp_path: Path) -> None:
    if not BCCD.is_dir():
        pytest.skip(f"no BCCD in {BCCD}: set REGRAFT_SHARED")
    data = {"train": f"{BCCD}#train", "eval": f"{BCCD}#val"}
    with pytest.raises(DataError) as refused:
        ingest(ObjectDetection(), DataSpec.model_validate(data), tmp_path)
    message = str(refused.value)
    assert "2 rows cannot be used" in message
    for name, box in (("00338", "[503, 336, 0, 0]"), ("00343", "[180, 328, 0, 0]")):
        assert f"{BCCD}/Annotations/BloodImage_{name}.xml: box " in message
        assert f"is {box} and has no area" in message
    found = ingest(ObjectDetection(), DataSpec.model_validate({**data, "bad_rows": "skip"}), tmp_path)
    assert found.rows["train"] + found.rows["eval"] == 205 + 87 - 2
    assert found.labels == ("Platelets", "RBC", "WBC")
    assert found.skipped["train"] + found.skipped["eval"] == 2


def sized(folder: Path, *objects: str, size: tuple[object, object] = (40, 20), orientation: int = 1) -> Path:
    """Write one document with a <size>, and its image of 40 x 20 stored pixels."""
    path = document(folder, "a", *objects)
    text = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path.write_text(path.read_text().replace("</filename>", f"</filename>{text}"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(folder / "JPEGImages" / "a.jpg", exif=exif)
    return path


def ingested(path: Path, scratch: Path, **data: object) -> IngestedRows:
    return ingest(ObjectDetection(), DataSpec.model_validate({"train": str(path), "eval": str(path), **data}), scratch)


def first_boxes(path: Path, scratch: Path, **data: object) -> list[list[float]]:
    return Rows(ingested(path, scratch, **data).files["train.arrow"], ObjectDetection.columns).row(0)["boxes"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("size", "orientation", "box"),
    [
        ((40, 20), 1, [30, 0, 10, 5]),
        ((40, 20), 6, [15, 30, 5, 10]),
        ((40, 20), 8, [0, 0, 5, 10]),
        ((0, 0), 1, [30, 0, 10, 5]),
    ],
)
def test_boxes_lie_where_the_declared_size_says(
    tmp_path: Path, size: tuple[int, int], orientation: int, box: list[float]
) -> None:
    sized(tmp_path / "v", thing("cat", 31, 1, 40, 5), size=size, orientation=orientation)
    assert first_boxes(tmp_path / "v", tmp_path) == [box]


def test_an_image_of_another_size_than_declared_is_a_bad_row(tmp_path: Path) -> None:
    path = sized(tmp_path / "v", thing("cat", 1, 1, 10, 5), size=(20, 10))
    with pytest.raises(DataError) as refused:
        ingested(tmp_path / "v", tmp_path)
    assert f"{path}: boxes were drawn on an image of 20 x 10 pixels" in str(refused.value)
    assert "and the image has 40 x 20" in str(refused.value)
    sized(tmp_path / "v", thing("cat", 1, 1, 10, 5), size=("wide", 10))
    with pytest.raises(DataError, match="width is 'wide'; the image's width in pixels is wanted"):
        ingested(tmp_path / "v", tmp_path)


def test_corners_as_shares_are_refused_with_both_readings_and_read_where_written(tmp_path: Path) -> None:
    sized(tmp_path / "v", thing("cat", 0.25, 0.5, 0.75, 1))
    with pytest.raises(DataError) as refused:
        ingested(tmp_path / "v", tmp_path)
    message = str(refused.value)
    assert "no corner is above 1: [0.25, 0.5, 0.75, 1] in an image of 40 x 20 pixels is 0.5 x 0.5 pixels at" in message
    assert "20 x 10 pixels at 10, 10 as corners x1, y1, x2, y2 as shares" in message
    assert "data.format: {type: voc, boxes: xyxy-shares}" in message
    shares = {"type": "voc", "boxes": "xyxy-shares"}
    assert first_boxes(tmp_path / "v", tmp_path, format=shares) == [[10, 10, 20, 10]]


POINTS = ((5, 6), (15, 6), (10, 16))
ROBOFLOW = "".join(f"<x{number}>{x}</x{number}><y{number}>{y}</y{number}>" for number, (x, y) in enumerate(POINTS, 1))
LABELME = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in POINTS)


@pytest.mark.parametrize("polygon", [ROBOFLOW, LABELME])
def test_an_object_without_corners_is_the_box_around_its_polygon(tmp_path: Path, polygon: str) -> None:
    sized(tmp_path / "v", f"<object><name>cat</name><polygon>{polygon}</polygon></object>")
    assert first_boxes(tmp_path / "v", tmp_path) == [[5, 6, 10, 10]]
    assert any("read as the box around their polygon" in note for note in ingested(tmp_path / "v", tmp_path).notes)


def test_what_other_tools_write_is_named_or_counted(tmp_path: Path) -> None:
    rotated = "<object><name>cat</name><robndbox><cx>9</cx></robndbox></object>"
    document(tmp_path, "a", rotated)
    assert "object 1 (cat) is a rotated box, <robndbox>; an upright <bndbox> is wanted" in str(
        read(tmp_path)[0].problem
    )
    path = document(tmp_path, "a", thing("cat", 1, 1, 5, 5), "<object><name>dog</name><deleted>1</deleted></object>")
    assert [row.ignored for row in read(tmp_path)] == ["objects that are marked as deleted", ""]
    path.write_text("<annotations><image/></annotations>")
    assert "it is CVAT's own format, so export it as PASCAL VOC or COCO" in str(read(tmp_path)[0].problem)


def test_a_document_finds_its_image_whatever_its_accents_and_spaces_are_written_as(tmp_path: Path) -> None:
    path = document(tmp_path, "b", thing("cat", 1, 1, 9, 9), picture=False, filename="C:\\x\\my%20cat")
    Image.new("RGB", (40, 20)).save(tmp_path / "JPEGImages" / "my cat.jpg")
    name = unicodedata.normalize("NFD", "k\u00e4tzchen")
    Image.new("RGB", (40, 20)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    document(tmp_path, unicodedata.normalize("NFC", name), thing("cat", 1, 1, 9, 9), picture=False, filename="x")
    named = [Path(row.values["image"]).name for row in read(tmp_path)]
    assert named == ["my cat.jpg", f"{name}.jpg"]
    assert path.is_file()
