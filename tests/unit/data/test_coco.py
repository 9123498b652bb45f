"""COCO documents as other tools write them: ids, declared sizes, meanings of boxes, polygons, what is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.contracts import Raw
from regraft.data.ingest import IngestedRows, ingest
from regraft.data.inputs import find_source
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.data.sources.coco import Coco
from regraft.errors import DataError
from regraft.media.pixels.images import open_rgb
from regraft.spec.run import RunSpec
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.object_detection import ObjectDetection
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url

SIZE = (120, 80)
BOX = [10, 20, 30, 20]


def photo(path: Path, orientation: int = 1, box: list[int] = BOX, scale: int = 1) -> Path:
    """Save a dark picture of SIZE, as it is stored, with a bright object in `box`."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    left, top, across, down = box
    pixels[top : top + down, left : left + across] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels)
    image.resize((SIZE[0] * scale, SIZE[1] * scale)).save(path, exif=exif, quality=95)
    return path


def document(
    folder: Path, image: dict[str, Any] | None = None, note: dict[str, Any] | None = None, **changes: Any
) -> Path:
    parts = {
        "images": [{"id": 1, "file_name": "p.jpg", "width": SIZE[0], "height": SIZE[1], **(image or {})}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 2, "bbox": BOX, **(note or {})}],
        "categories": [{"id": 2, "name": "cell"}],
        **changes,
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(parts))
    return path


def built(folder: Path, path: Path, task: ObjectDetection | None = None, **format_: Any) -> Snapshot:
    data = {"train": str(path), "eval": str(path)} | ({"format": {"type": "coco", **format_}} if format_ else {})
    store = open_store(str(folder / "store"))
    return build_snapshot(store, task or ObjectDetection(), DataSpec.model_validate(data))


def ingested(folder: Path, path: Path, **data: Any) -> IngestedRows:
    return ingest(ObjectDetection(), DataSpec.model_validate({"train": str(path), "eval": str(path), **data}), folder)


def notes(found: IngestedRows) -> list[str]:
    """What is said about rows, besides that evaluation rows are training rows too."""
    return [note for note in found.notes if "evaluation row" not in note]


def share_of_object(row: dict[str, Any]) -> float:
    """The share of bright pixels under the first box of a row."""
    left, top, across, down = map(round, row["boxes"][0])
    pixels = np.asarray(open_rgb(row["image"]))[top : top + down, left : left + across]
    return float((pixels > 128).mean())


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_boxes_of_the_stored_picture_turn_with_it(tmp_path: Path, orientation: int) -> None:
    photo(tmp_path / "p.jpg", orientation)
    row = built(tmp_path, document(tmp_path)).train.row(0)
    assert share_of_object(row) > 0.97
    found = ingested(tmp_path, document(tmp_path))
    turned = [note for note in found.notes if "turned with it as its EXIF orientation says" in note]
    assert bool(turned) == (orientation != 1)


def test_boxes_of_the_seen_picture_stay(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg", 6)
    path = document(tmp_path, {"width": 80, "height": 120}, {"bbox": [40, 10, 20, 30]})
    assert share_of_object(built(tmp_path, path).train.row(0)) > 0.97
    assert not notes(ingested(tmp_path, path))


@pytest.mark.parametrize(("orientation", "said"), [(1, False), (3, True)])
def test_a_turn_that_sizes_do_not_show_is_said(tmp_path: Path, orientation: int, said: bool) -> None:
    photo(tmp_path / "p.jpg", orientation)
    found = notes(ingested(tmp_path, document(tmp_path)))
    assert [("taken as drawn on the upright picture" in note) for note in found] == [True] * said


def test_a_picture_of_another_size_is_a_bad_row_with_both_sizes(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg", scale=2)
    with pytest.raises(DataError) as refused:
        ingested(tmp_path, document(tmp_path))
    assert "boxes were drawn on an image of 120 x 80 pixels, as their file says, and the image has 240 x 160" in str(
        refused.value
    )
    assert "coco.json:image 1" in str(refused.value)
    photo(tmp_path / "p.jpg", 6, scale=2)
    with pytest.raises(DataError, match="the image has 240 x 160, seen as 160 x 240 by its EXIF orientation"):
        ingested(tmp_path, document(tmp_path))


@pytest.mark.parametrize(
    "declared",
    [
        {"width": 0, "height": 0},
        {"width": None},
        {"width": ""},
        {"width": "120", "height": "80.0"},
        {"height": 0},
        {"width": -1, "height": -1},
        {"width": "none"},
        {"height": "null"},
        {"width": "NaN"},
        {"width": float("nan")},
    ],
)
def test_a_size_that_says_nothing_or_the_same_is_no_matter(tmp_path: Path, declared: dict[str, Any]) -> None:
    photo(tmp_path / "p.jpg")
    assert built(tmp_path, document(tmp_path, declared)).train.row(0)["boxes"] == [BOX]


@pytest.mark.parametrize("width", ["wide", True, float("inf"), 10**400])
def test_a_size_that_is_no_number_is_a_bad_row(tmp_path: Path, width: Any) -> None:
    photo(tmp_path / "p.jpg")
    with pytest.raises(DataError, match="the image's width in pixels is wanted"):
        ingested(tmp_path, document(tmp_path, {"width": width}))


def test_a_box_outside_of_a_turned_picture_without_a_declared_size_says_that_it_is_turned(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg", 6)
    path = document(tmp_path, {"width": 0}, {"bbox": [70, 20, 30, 20]})
    with pytest.raises(DataError, match="it lies inside of the image as it is stored, 120 x 80, which is turned by"):
        ingested(tmp_path, path, format={"type": "coco", "boxes": "xywh"})


def read(path: Path, **fields: Any) -> list[Raw]:
    return list(Coco(**fields).read(path))


@pytest.mark.parametrize(
    ("image", "note"),
    [(1, 1.0), (1.0, 1), ("1", 1), (1, "1"), ("1.0", 1), ("a7", "a7"), (1.5, 1.5), ("007", "007"), ("id 1", "id 1")],
)
def test_ids_are_the_same_however_they_are_written(tmp_path: Path, image: Any, note: Any) -> None:
    path = document(tmp_path, {"id": image}, {"image_id": note, "category_id": "2.0"})
    [row] = read(path)
    assert (row.problem, row.values["labels"]) == (None, ["cell"])


def test_ids_that_differ_stay_apart(tmp_path: Path) -> None:
    images = [{"id": name, "file_name": f"{name}.jpg"} for name in ("7", "07", "7.5", "7a")]
    path = document(tmp_path, images=images, annotations=[{"image_id": 7.0, "category_id": 2, "bbox": BOX}])
    assert [row.values["labels"] for row in read(path)] == [["cell"], [], [], []]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"id": None}, "the image has no id"),
        ({"id": True}, "the image's id is True; a number or a text is wanted"),
        ({"id": [1]}, r"the image's id is \[1\]; a number or a text is wanted"),
    ],
)
def test_what_is_no_id_is_said_as_it_is(tmp_path: Path, image: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(document(tmp_path, image))


def test_categories_may_be_numbers(tmp_path: Path) -> None:
    [row] = read(document(tmp_path, categories=[{"id": 2, "name": 17}]))
    assert row.values["labels"] == ["17"]


def test_an_annotation_without_bbox_is_the_box_around_its_polygons(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg")
    polygons = [[10, 20, 40, 20, 40, 30], [20, 20, 25, 40, 30, 30]]
    for bbox in (None, []):
        path = document(tmp_path, note={"bbox": bbox, "segmentation": polygons})
        assert built(tmp_path, path).train.row(0)["boxes"] == [BOX]
        assert any("read as the box around their polygons" in note for note in ingested(tmp_path, path).notes)
    corners = built(tmp_path, document(tmp_path, note={"bbox": None, "segmentation": polygons}), boxes="xyxy")
    assert corners.train.row(0)["boxes"] == [BOX]


def packed(counts: list[int]) -> str:
    """Run lengths as pycocotools packs them."""
    letters = ""
    for at, count in enumerate(counts):
        value = count - counts[at - 2] if at > 2 else count
        while True:
            letter, value = value & 0x1F, value >> 5
            more = value != (-1 if letter & 0x10 else 0)
            letters += chr((letter | 0x20 if more else letter) + 48)
            if not more:
                break
    return letters


def runs_of(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    pixels = np.concatenate([[False], mask.T.reshape(-1)])
    ends = [*np.flatnonzero(pixels[1:] != pixels[:-1]).tolist(), mask.size]
    return np.diff([0, *ends]).tolist()


@pytest.mark.parametrize("seed", range(8))
def test_an_annotation_without_bbox_is_the_box_around_its_mask(tmp_path: Path, seed: int) -> None:
    photo(tmp_path / "p.jpg")
    draw = np.random.default_rng(seed)
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    left, top = draw.integers(0, 60, 2).tolist()
    mask[top : top + 15 + seed, left : left + 20 + seed] = draw.random((15 + seed, 20 + seed)) < 0.4
    mask = mask[: SIZE[1]]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    for counts in (runs_of(mask), packed(runs_of(mask))):
        written = {"bbox": None, "segmentation": {"counts": counts, "size": [SIZE[1], SIZE[0]]}}
        for form in ("xywh", "xyxy", "shares"):
            [row] = built(tmp_path, document(tmp_path, note=written), boxes=form).train.row(0)["boxes"]
            assert row == pytest.approx(box)
        assert any(
            "box around their masks" in note for note in ingested(tmp_path, document(tmp_path, note=written)).notes
        )


def test_annotations_to_be_ignored_are_counted_and_repeated_ones_named(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg")
    both = [{"image_id": 1, "category_id": 2, "bbox": BOX, "id": number} for number in (1, 2)]
    assert any(
        "annotations repeat another" in note for note in ingested(tmp_path, document(tmp_path, annotations=both)).notes
    )
    both[1]["ignore"] = 1
    found = ingested(tmp_path, document(tmp_path, annotations=both)).notes
    assert any("passed over annotations to be ignored (ignore: 1): 2" in note for note in found)
    assert not any("repeat" in note for note in found)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_shown_in_its_box(tmp_path: Path, number: float) -> None:
    [row] = read(document(tmp_path, note={"bbox": [1, number, 3, 4]}))
    assert f"bbox is [1, {number}, 3, 4]; four numbers are wanted" in str(row.problem)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        {"counts": "abc", "size": [80, 120]},
        {"counts": [9600], "size": [80, 120]},
        {"counts": "o" * 99, "size": [80, 120]},
        {"counts": [1, 2], "size": [80, 120]},
        {"counts": [True], "size": [1, 1]},
        {"size": 3},
        [[1, 2]],
        [["a"] * 6],
    ],
)
def test_an_annotation_without_box_and_polygon_is_a_bad_row(tmp_path: Path, segmentation: Any) -> None:
    [row] = read(document(tmp_path, note={"bbox": None, "segmentation": segmentation}))
    assert "bbox is None; four numbers are wanted" in str(row.problem)


def test_crowds_are_counted(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg")
    written = [{"image_id": 1, "category_id": 2, "bbox": BOX, "iscrowd": crowd, "id": crowd} for crowd in (0, 1)]
    assert notes(ingested(tmp_path, document(tmp_path, annotations=written))) == [
        f"passed over annotations of crowds (iscrowd: 1): 2, the first {tmp_path}/coco.json:annotation 1"
    ]


FORMS = {
    "xyxy": [10, 20, 40, 40],
    "cxcywh": [25, 30, 30, 20],
    "shares": [10 / 120, 20 / 80, 30 / 120, 20 / 80],
    "xyxy-shares": [10 / 120, 20 / 80, 40 / 120, 40 / 80],
    "cxcywh-shares": [25 / 120, 30 / 80, 30 / 120, 20 / 80],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("declared", "orientation"), [(True, 1), (False, 1), (True, 6)])
def test_boxes_are_read_as_the_format_says(tmp_path: Path, form: str, declared: bool, orientation: int) -> None:
    photo(tmp_path / "p.jpg", orientation)
    size = {} if declared else {"width": None}
    row = built(tmp_path, document(tmp_path, size, {"bbox": FORMS[form]}), boxes=form).train.row(0)
    assert row["boxes"][0] == pytest.approx(BOX if orientation == 1 else [40, 10, 20, 30])
    assert share_of_object(row) > 0.97


def test_shares_do_not_mind_a_resized_picture(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg", scale=2)
    row = built(tmp_path, document(tmp_path, note={"bbox": FORMS["shares"]}), boxes="shares").train.row(0)
    assert row["boxes"][0] == pytest.approx([20, 40, 60, 40])


@pytest.mark.parametrize("crowd", ["0", "false", "False", " ", 0.0, None])
def test_a_mark_of_crowds_that_says_no_is_none(tmp_path: Path, crowd: Any) -> None:
    photo(tmp_path / "p.jpg")
    assert [row.values.get("labels") for row in read(document(tmp_path, note={"iscrowd": crowd}))] == [["cell"]]


def test_a_number_that_counts_no_pixels_is_a_bad_row(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg")
    [row] = read(document(tmp_path, note={"bbox": [1, 2, 3, 10**400]}))
    assert "four numbers are wanted" in str(row.problem)


@pytest.mark.parametrize("declared", [True, False])
def test_shares_that_are_taken_for_pixels_are_refused_with_both_readings(tmp_path: Path, declared: bool) -> None:
    photo(tmp_path / "p.jpg")
    path = document(tmp_path, {} if declared else {"width": None}, {"bbox": [0.25, 0.5, 0.5, 0.25]})
    with pytest.raises(DataError) as refused:
        read(path)
    message = str(refused.value)
    assert (
        "all numbers of its 1 box are between 0 and 1: [0.25, 0.5, 0.5, 0.25] in p.jpg, a picture of 120 x 80"
        in message
    )
    assert "0.5 x 0.25 pixels at 0.25, 0.5 as x, y, width, height in pixels" in message
    assert "60 x 20 pixels at 30, 40 as x, y, width, height as shares of the picture" in message
    assert "data.format: {type: coco, boxes: shares}" in message and "{type: coco, boxes: xywh}" in message
    assert [row.problem for row in read(path, boxes="xywh")] == [None]


def many(folder: Path, boxes: list[list[float]]) -> Path:
    notes = [{"id": n, "image_id": 1, "category_id": 2, "bbox": box} for n, box in enumerate(boxes)]
    return document(folder, annotations=notes)


def test_corners_that_are_taken_for_width_and_height_are_refused_with_both_readings(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg")
    path = many(tmp_path, [[1, 1, 20, 20], [60, 40, 70, 60], [100, 10, 119, 70]])
    with pytest.raises(DataError) as refused:
        read(path)
    message = str(refused.value)
    assert "2 of 3 boxes do not lie in their pictures as x, y, width, height in pixels" in message
    assert "[60, 40, 70, 60] in p.jpg, a picture of 120 x 80 pixels" in message
    assert "10 x 20 pixels at 60, 40 as corners x1, y1, x2, y2 in pixels" in message
    assert "data.format: {type: coco, boxes: xyxy}" in message
    assert built(tmp_path, path, boxes="xyxy").train.row(0)["boxes"][1] == [60, 40, 10, 20]


@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 120, 80]],
        [[10, 10, 5, 5], [0, 0, 20, 20]],
        [[10, 10, 5, 5], [100, 10, 30, 20], [50, 50, 10, 10]],  # a mistake, which does not fit as corners either
        [[n, 10, 20, 8] for n in range(60)] + [[110, 10, 12, 12]],  # one mistake of many
        [[0, 0, 1, 1], [5, 5, 1, 1]],
        [[0, 0, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 0, 1]],
    ],
)
def test_ordinary_boxes_are_not_doubted(tmp_path: Path, boxes: list[list[float]]) -> None:
    assert [row.problem for row in read(many(tmp_path, boxes))] == [None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shapes": [], "imagePath": "p.jpg", "imageData": None}, "is LabelMe's or X-AnyLabeling's JSON of one image"),
        ({"_via_img_metadata": {}, "_via_settings": {}}, "is a project of the VGG Image Annotator"),
        ({"info": {}, "items": [], "categories": {}}, "is Datumaro's JSON"),
    ],
)
def test_documents_of_other_tools_are_named(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(DataError, match=message):
        read(path)
    with pytest.raises(DataError, match=message.removeprefix("is ")):
        ingested(tmp_path, path)


def test_a_folder_above_that_of_a_document_says_which_to_give(tmp_path: Path) -> None:
    (tmp_path / "set" / "inner").mkdir(parents=True)
    photo(tmp_path / "set" / "inner" / "p.jpg")
    document(tmp_path / "set" / "inner").rename(tmp_path / "set" / "inner" / "_annotations.coco.json")
    with pytest.raises(DataError, match=r"_annotations\.coco\.json holds COCO's boxes: give .*/set/inner as the path"):
        ingested(tmp_path, tmp_path / "set")


def test_names_of_runs_stay_where_nothing_is_said_about_boxes(tmp_path: Path) -> None:
    spec = {"name": "n", "base": "b", "task": "object-detection", "method": "full"}
    plain, written = (
        RunSpec.resolve({**spec, "data": {"train": "x", "format": {"type": "coco", **more}}})
        for more in ({}, {"boxes": "xyxy"})
    )
    dumped = plain.model_dump(mode="json")
    assert dumped["data"]["format"] == {"type": "coco", "images": None}
    assert "boxes" not in dumped["task"]
    assert plain.run != written.run


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[60, 40, 70, 60]],
            "lies outside of its image of 120 x 80 pixels; it would be 10 x 20 pixels at 60, 40 as corners",
        ),
        ([[0.25, 0.5, 0.5, 0.25]], "no number of its boxes is above 1: [0.25, 0.5, 0.5, 0.25] in an image of 120 x 80"),
    ],
)
def test_doubtful_boxes_of_a_table_are_bad_rows_with_the_setting(tmp_path: Path, boxes: Any, message: str) -> None:
    photo(tmp_path / "p.jpg")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"image": "p.jpg", "boxes": boxes, "labels": ["cell"]}) + "\n")
    with pytest.raises(DataError) as refused:
        ingested(tmp_path, path)
    assert message in str(refused.value)
    assert "task: {type: object-detection, boxes: " in str(refused.value)


@pytest.mark.parametrize("form", FORMS)
def test_boxes_of_a_table_are_read_as_the_task_says(tmp_path: Path, form: str) -> None:
    photo(tmp_path / "p.jpg")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"image": "p.jpg", "boxes": [FORMS[form]], "labels": ["cell"]}) + "\n")
    task = ObjectDetection.model_validate({"boxes": form})
    assert built(tmp_path, path, task).train.row(0)["boxes"][0] == pytest.approx(BOX)
    coco = document(tmp_path)
    assert built(tmp_path, coco, task).train.row(0)["boxes"] == [BOX]


def test_documents_that_a_folder_does_not_choose_between_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "train2017").mkdir(parents=True)
    photo(folder / "train2017" / "p.jpg")
    (folder / "annotations").mkdir()
    for name in ("train", "val"):
        document(folder / "annotations").rename(folder / "annotations" / f"instances_{name}.json")
    with pytest.raises(DataError, match=r"give one document: .*instances_train\.json or .*instances_val\.json"):
        ingested(tmp_path, folder / "train2017")
    with pytest.raises(DataError, match=r"holds the splits train, val: write one of them, as in .*set#train"):
        ingested(tmp_path, folder)


def test_annotations_without_their_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"image_id": 1, "category_id": 2, "bbox": BOX, "score": 0.5}]))
    with pytest.raises(DataError, match="COCO's annotations or results alone, without images and categories"):
        ingested(tmp_path, path)


def split_folder(folder: Path, number: int, name: str = "_annotations.coco.json") -> Path:
    """A folder of one picture and its document, with a box whose left side is `number`."""
    folder.mkdir(parents=True)
    photo(folder / "p.jpg")
    document(folder, note={"bbox": [number, 20, 30, 20]}).rename(folder / name)
    return folder


@pytest.mark.parametrize(
    ("first", "second", "asked"),
    [
        ("train", "valid", ("train", "valid")),  # Roboflow
        ("train", "valid", ("train", "val")),
        ("train", "test", ("train", "test")),
        ("train2017", "val2017", ("train2017", "val2017")),
        ("train2017", "val2017", ("train", "valid")),
    ],
)
def test_a_folder_with_a_folder_for_each_split_is_read_by_the_name_of_one(
    tmp_path: Path, first: str, second: str, asked: tuple[str, str]
) -> None:
    root = tmp_path / "set"
    split_folder(root / first, 10)
    split_folder(root / second, 40)
    (root / "README.roboflow.txt").write_text("exported")
    assert find_source(root, "it").key() == "coco"
    data = DataSpec(train=f"{root}#{asked[0]}", eval=f"{root}#{asked[1]}")
    made = build_snapshot(open_store(str(tmp_path / "store")), ObjectDetection(), data)
    assert made.train.row(0)["boxes"] == [[10, 20, 30, 20]]
    assert made.eval.row(0)["boxes"] == [[40, 20, 30, 20]]
    with pytest.raises(DataError, match=rf"holds the splits {first}, {second}: write one of them, as in .*#{first}"):
        list(Coco().read(root))
    with pytest.raises(DataError, match=r"has no split 'trian'; did you mean 'train"):
        list(Coco(part="trian").read(root))


@pytest.mark.parametrize("place", ["annotations", "."])
def test_documents_of_splits_side_by_side_are_read_by_the_name_of_one(tmp_path: Path, place: str) -> None:
    root = tmp_path / "set"
    for number, split in ((10, "train2017"), (40, "val2017")):
        split_folder(root / split, number, "moved.json")
        (root / place).mkdir(exist_ok=True)
        (root / split / "moved.json").rename(root / place / f"instances_{split}.json")
    (root / place / "person_keypoints_val2017.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert find_source(root, "it").key() == "coco"
    for split in ("val", "val2017"):
        [row] = Coco(part=split).read(root)
        assert list(row.values["boxes"]) == [[40, 20, 30, 20]]


def test_a_folder_with_one_split_needs_no_name(tmp_path: Path) -> None:
    split_folder(tmp_path / "set" / "train", 10)
    assert [row.problem for row in Coco().read(tmp_path / "set")] == [None]


def test_a_document_without_splits_has_none_to_name(tmp_path: Path) -> None:
    folder = split_folder(tmp_path / "set", 10)
    for path in (folder, folder / "_annotations.coco.json"):
        with pytest.raises(DataError, match="is one document without splits; 'train' is written: leave it out"):
            list(Coco(part="train").read(path))


def test_class_folders_beside_documents_of_splits_are_still_images(tmp_path: Path) -> None:
    split_folder(tmp_path / "set" / "cats", 10, "train.json").joinpath("train.json").rename(tmp_path / "set/train.json")
    document(tmp_path / "set").rename(tmp_path / "set" / "val.json")
    assert not Coco().accepts(tmp_path / "set")
    assert find_source(tmp_path / "set", "it").key() == "images"


def test_a_split_that_is_not_written_leaves_names_of_runs_as_they_were() -> None:
    assert "part" not in Coco().model_dump() and Coco(part="train").model_dump()["part"] == "train"


def test_a_folder_of_splits_in_s3_is_read_by_the_name_of_one(moto_url: str, tmp_path: Path) -> None:
    store = open_store(moto_url)
    for number, split in ((10, "train"), (40, "valid")):
        for file in split_folder(tmp_path / split, number).iterdir():
            store.put(f"set/{split}/{file.name}", file.read_bytes())
    data = DataSpec(train=f"{moto_url}/set#train", eval=f"{moto_url}/set#valid")
    made = build_snapshot(open_store(str(tmp_path / "store")), ObjectDetection(), data)
    assert (made.train.row(0)["boxes"], made.eval.row(0)["boxes"]) == ([[10, 20, 30, 20]], [[40, 20, 30, 20]])
