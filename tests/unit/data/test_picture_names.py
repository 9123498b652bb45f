"""Names of images as other tools write them, in tables and annotation files, are those of the files that they mean."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from doubles.fake_tasks import Seeing
from regraft.columns.files.file_names import find_file, last_part, readings, url_beside, url_readings
from regraft.contracts import Raw, Source
from regraft.data.ingest import ingest
from regraft.data.snapshot import build_snapshot
from regraft.data.sources.coco import Coco
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.object_detection import ObjectDetection
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url

COMPOSED = unicodedata.normalize("NFC", "föto/bäume.png")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def saved(path: Path, size: tuple[int, int] = (12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pics\\p 0.png", "pics/p 0.png"),
        ("pics\\deep\\p.png", "pics/deep/p.png"),
        (".\\p.png", "p.png"),
        ("../p.png", "../p.png"),
        ("..\\p.png", "../p.png"),
        ("pics/p%200.png", "pics/p 0.png"),
        ("pics%2Fp.png", "pics/p.png"),
        ("b%C3%A4ume.png", "bäume.png"),
        (DECOMPOSED, COMPOSED),
        (COMPOSED, DECOMPOSED),
        ("f%C3%B6to\\b%C3%A4ume.png", DECOMPOSED),
        ("file://{folder}/p%200.png", "p 0.png"),
        ("file://localhost{folder}/p.png", "p.png"),
        ("file:{folder}/p.png", "p.png"),
        ("{folder}/pics/p.png", "pics/p.png"),
        ("/data/local-files/?d=pics/p%200.png", "pics/p 0.png"),
        (" p.png ", "p.png"),
    ],
)
def test_a_table_names_an_image_in_any_of_these_ways(tmp_path: Path, name: str, file: str) -> None:
    folder = tmp_path / "set"
    path = saved(folder / file)
    rows = folder / "rows.jsonl"
    written = name.format(folder=folder)
    rows.write_text("".join(json.dumps({"image": written, "label": label}) + "\n" for label in "ab"))
    found = build_snapshot(
        open_store(str(tmp_path / "store")), Seeing(), DataSpec(train=str(rows), eval=str(rows))
    ).train.row(0)
    assert Path(found["image"]).resolve() == path.resolve()


@pytest.mark.parametrize("name", ["p%200.png", "a\\b.png", " p.png", "file:x.png"])
def test_a_file_of_that_very_name_comes_first(tmp_path: Path, name: str) -> None:
    for other in ("p 0.png", "a/b.png", "p.png", "x.png"):
        saved(tmp_path / other)
    path = saved(tmp_path / name)
    assert find_file(name, tmp_path) == str(path)


def test_an_address_with_a_single_bracket_is_a_name(tmp_path: Path) -> None:
    assert find_file("http://[x/data/local-files/?d=p.png", tmp_path) is None
    assert last_part("http://[x/data/local-files/?d=p.png") == "?d=p.png"


def test_a_plain_name_has_one_reading() -> None:
    assert list(readings("deep/p 0(1).png")) == ["deep/p 0(1).png"]
    assert list(readings("")) == [""]


@pytest.mark.parametrize(
    ("name", "part"),
    [("C:\\x\\p.png", "p.png"), ("../a/p.png", "p.png"), ("p.png", "p.png"), ("file:///C:/x/p%201.png", "p 1.png")],
)
def test_the_last_part_is_the_name_without_the_folders_of_any_system(name: str, part: str) -> None:
    assert last_part(name) == part


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("C:\\pics\\p.png", r"'C:\\pics\\p.png' is a file of the machine that wrote it; write names that begin at"),
        ("/nowhere/p.png", "there is no image /nowhere/p.png: '/nowhere/p.png' is a file of the machine that wrote it"),
        ("file:///nowhere/p.png", "is a file of the machine that wrote it"),
        ("https://example.org/p.png", "is a URL; images are read from local files and s3:// URLs: download them first"),
        ("none.png", "there is no image {folder}/none.png"),
    ],
)
def test_a_name_of_no_file_is_a_bad_row_with_the_way(tmp_path: Path, name: str, message: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": name, "label": "a"}) + "\n")
    with pytest.raises(DataError) as refused:
        ingest(Seeing(), DataSpec(train=str(rows), eval=str(rows)), tmp_path)
    assert message.format(folder=tmp_path) in str(refused.value)


def coco(path: Path, *names: str) -> Path:
    """Write a document whose images have these names and one box each."""
    document = {
        "images": [{"id": number, "file_name": name, "width": 12, "height": 8} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": [1, 2, 3, 4]} for number in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def read(source: Source, path: Path) -> list[Raw]:
    return list(source.read(path))


@pytest.mark.parametrize(
    ("document", "name", "file"),
    [
        ("result.json", "images\\p.png", "images/p.png"),  # Label Studio on Windows
        ("set/annotations/train.json", "../images/p.png", "set/images/p.png"),  # X-AnyLabeling
        ("annotations/instances_train2017.json", "p.png", "train2017/p.png"),  # COCO
        ("annotations/person_keypoints_val2017.json", "p.png", "val2017/p.png"),
        ("annotations/instances_default.json", "sub/p.png", "images/default/sub/p.png"),  # CVAT
        ("annotations/train.json", "p.png", "train/p.png"),  # MMDetection
        ("labels.json", "p.png", "data/p.png"),  # FiftyOne
        ("result.json", "p.png", "images/p.png"),  # Label Studio
        ("_annotations.coco.json", "p_png.rf.0a1.png", "p_png.rf.0a1.png"),  # Roboflow
    ],
)
def test_coco_images_are_found_in_the_layouts_of_other_tools(
    tmp_path: Path, document: str, name: str, file: str
) -> None:
    path = saved(tmp_path / file)
    [row] = read(Coco(), coco(tmp_path / document, name))
    assert row.problem is None
    assert Path(row.values["image"]).resolve() == path.resolve()
    assert row.values["boxes"] == [[1, 2, 3, 4]]


def test_an_absolute_name_that_exists_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path / "elsewhere" / "p.png")
    [row] = read(Coco(), coco(tmp_path / "set" / "train.json", str(path)))
    assert row.values["image"] == str(path)


@pytest.mark.parametrize(
    "name", ["C:\\work\\p.png", "/mnt/work/p.png", "../../upload/1/p.png", "file:///C:/work/p.png"]
)
def test_other_names_are_found_by_their_last_part_in_the_folder_that_is_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "set" / "pics" / "p.png")
    document = coco(tmp_path / "set" / "deep" / "train.json", name)
    for images in ("pics", str(path.parent)):
        [row] = read(Coco(images=images), document)
        assert (row.values["image"], row.problem) == (str(path), None)
        assert row.remark == "the image was found by the last part of its name in data.format.images"
    found = ingest(
        ObjectDetection(),
        DataSpec.model_validate(
            {"train": str(document), "eval": str(document), "format": {"type": "coco", "images": str(path.parent)}}
        ),
        tmp_path,
    )
    assert any("found by the last part of its name in data.format.images: 2 rows" in note for note in found.notes)


def test_a_last_part_of_two_names_is_no_name(tmp_path: Path) -> None:
    saved(tmp_path / "pics" / "p.png")
    names = ("/x/a/p.png", "/x/b/p.png")
    message = "'{}' and '{}' would both be {}/p.png: rename one of the images"
    for images in (str(tmp_path / "pics"), "s3://b/pics"):
        first, second = read(Coco(images=images), coco(tmp_path / "c.json", *names))
        assert first.problem == message.format(*names, images)
        assert second.problem == message.format(*reversed(names), images)


@pytest.mark.parametrize("names", [("p.png", "/x/b/p.png"), ("/x/b/p.png", "p.png")])
@pytest.mark.parametrize("remote", [True, False])
def test_a_last_part_never_leads_to_the_picture_of_another_name(
    tmp_path: Path, names: tuple[str, str], remote: bool
) -> None:
    saved(tmp_path / "pics" / "p.png")
    images = "s3://b/pics" if remote else str(tmp_path / "pics")
    found = read(Coco(images=images), coco(tmp_path / "c.json", *names))
    assert ["would both be" in str(row.problem) for row in found] == [True, True]


def test_a_picture_that_is_listed_twice_by_its_whole_name_is_two_rows(tmp_path: Path) -> None:
    saved(tmp_path / "pics" / "deep" / "p.png")
    found = read(Coco(images=str(tmp_path / "pics")), coco(tmp_path / "c.json", "deep/p.png", "deep\\p.png"))
    assert [row.problem for row in found] == [None, None]


def test_an_image_that_is_not_there_is_named_with_the_folders_and_the_setting(tmp_path: Path) -> None:
    saved(tmp_path / "images" / "p.png")
    path = coco(tmp_path / "annotations" / "instances_train.json", "/mnt/p.png", "images/p.png")
    with pytest.raises(DataError) as refused:
        ingest(ObjectDetection(), DataSpec(train=str(path), eval=str(path)), tmp_path)
    assert (
        f"image: there is no image /mnt/p.png: it was looked for in {tmp_path}/annotations, {tmp_path}/images, "
        f"{tmp_path}; write data.format: {{type: coco, images: {tmp_path}/images}}, where the last part of a name is "
        "enough"
    ) in str(refused.value)


def test_an_image_in_two_usual_folders_is_not_guessed(tmp_path: Path) -> None:
    saved(tmp_path / "train" / "p.png")
    saved(tmp_path / "images" / "p.png")
    [row] = read(Coco(), coco(tmp_path / "annotations" / "train.json", "p.png"))
    assert row.problem == (
        f"'p.png' may be {tmp_path}/images/p.png and {tmp_path}/train/p.png: write data.format: "
        "{type: coco, images: FOLDER}"
    )


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://b/x/p.png", ["s3://b/x/p.png"]),
        ("s3://b/set/images\\p.png", ["s3://b/set/images\\p.png", "s3://b/set/images/p.png"]),
        ("s3://b/set/../p.png", ["s3://b/p.png"]),
        ("s3://b/../c/p.png", []),
        ("s3://b/x/../../c/p.png", []),
    ],
)
def test_no_reading_of_a_url_leads_out_of_its_bucket(url: str, found: list[str]) -> None:
    assert list(url_readings(url)) == found


def test_a_name_beside_a_table_in_s3_keeps_its_bucket() -> None:
    assert url_beside("../y.png", "s3://b/deep") == "s3://b/y.png"
    assert list(url_readings(url_beside("../../c/y.png", "s3://b/deep"))) == []


def test_tables_and_documents_in_s3_are_read_the_same_way(moto_url: str, tmp_path: Path) -> None:
    store = open_store(moto_url)
    store.put("set/images/p 0.png", saved(tmp_path / "p.png").read_bytes())
    store.put("set/rows.csv", b"image,label\nimages\\p 0.png,a\nimages/p%200.png,b\n../../../../p.png,b\n")
    store.put("set/c.json", coco(tmp_path / "c.json", "images\\p 0.png").read_bytes())
    data: Any = {"train": f"{moto_url}/set/rows.csv", "eval": f"{moto_url}/set/rows.csv", "bad_rows": "skip"}
    found = build_snapshot(open_store(str(tmp_path / "store")), Seeing(), DataSpec(**data))
    assert [found.train.stored(index)["image"] for index in range(len(found.train))] == [
        f"{moto_url}/set/images/p 0.png"
    ] * 2
    with pytest.raises(DataError, match="leads out of its bucket"):
        ingest(Seeing(), DataSpec(**{**data, "bad_rows": "fail"}), tmp_path)
    data = {"train": f"{moto_url}/set/c.json", "eval": f"{moto_url}/set/c.json"}
    found = build_snapshot(open_store(str(tmp_path / "store")), ObjectDetection(), DataSpec(**data))
    assert found.train.stored(0)["image"] == f"{moto_url}/set/images/p 0.png"
    data["format"] = {"type": "coco", "images": f"{moto_url}/set/images"}
    data["train"] = data["eval"] = str(coco(tmp_path / "d.json", "../../away/p 0.png"))
    found = build_snapshot(open_store(str(tmp_path / "store")), ObjectDetection(), DataSpec.model_validate(data))
    assert found.train.stored(0)["image"] == f"{moto_url}/set/images/p 0.png"
