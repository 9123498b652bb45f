"""YOLO folders of Ultralytics, Roboflow, CVAT, Label Studio and LabelImg; what is passed over; a run on one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regraft.contracts import Raw
from regraft.data.ingest import IngestedRows, ingest
from regraft.data.inputs import find_source
from regraft.data.snapshot import build_snapshot
from regraft.data.sources.yolo import Yolo
from regraft.errors import DataError
from regraft.spec.run import RunSpec
from regraft.spec.sections import DataSpec
from regraft.store.objects import open_store
from regraft.tasks.object_detection import ObjectDetection
from regraft.training.session import train_local
from support.rectangles import CLASSES, SIDE, rectangles, tiny_yolos
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url

LINE = "1 0.5 0.5 0.25 0.5\n"
PIXELS = [[15.0, 5.0, 10.0, 10.0]]


def image(path: Path, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    return path


def text(path: Path, content: str = LINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def read(path: Path, **fields: Any) -> list[Raw]:
    return list(Yolo(**fields).read(path))


def rows(path: Path, **fields: Any) -> list[tuple[str, list[str]]]:
    found = read(path, **fields)
    assert not [row.problem for row in found if row.problem]
    return [(Path(row.values["image"]).name, row.values["labels"]) for row in found if not row.ignored]


def ingested(folder: Path, path: str | Path, **data: Any) -> IngestedRows:
    return ingest(ObjectDetection(), DataSpec.model_validate({"train": str(path), "eval": str(path), **data}), folder)


def notes(found: IngestedRows) -> list[str]:
    """What is said about rows, besides that evaluation rows are training rows too."""
    return [note for note in found.notes if "evaluation row" not in note]


YAML = "path: ../datasets/coco8\ntrain: images/train\nval: images/val\ntest:\nnames:\n  0: cat\n  1: dog\n"
ROBOFLOW = "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['cat', 'dog']\nroboflow: {version: 1}\n"
NOTEBOOK = "train: /content/set/train/images\nval: /content/set/valid/images\nnames: [cat, dog]\n"
LISTS = "path: .\ntrain: train.txt\nval: [images/val]\nnames: [cat, dog]\n"


@pytest.mark.parametrize(
    ("files", "train", "val"),
    [
        ({"data.yaml": YAML}, "images/train/a.jpg", "images/val/b.png"),
        (
            {"coco8.yaml": YAML.replace("path: ../datasets/coco8", "path: /nowhere")},
            "images/train/a.jpg",
            "images/val/b.png",
        ),
        ({"data.yaml": ROBOFLOW}, "train/images/a.jpg", "valid/images/b.png"),
        ({"dataset.yml": NOTEBOOK}, "train/images/a.jpg", "valid/images/b.png"),
        ({"data.yaml": LISTS, "train.txt": "./images/train/a.jpg\n"}, "images/train/a.jpg", "images/val/b.png"),
        ({"classes.txt": "cat\ndog\n"}, "images/train/a.jpg", "images/val/b.png"),
        ({"obj.names": "cat\ndog\n", "obj.data": "classes = 2\n"}, "obj_train_data/a.jpg", "obj_val_data/b.png"),
    ],
)
def test_splits_are_found_in_the_layouts_of_other_tools(
    tmp_path: Path, files: dict[str, str], train: str, val: str
) -> None:
    folder = tmp_path / "set"
    for name, content in files.items():
        text(folder / name, content)
    for name in (train, val):
        image(folder / name)
        text((folder / name.replace("images", "labels")).with_suffix(".txt"))
    assert find_source(folder, "it").key() == "yolo"
    assert rows(folder, part="train") == [("a.jpg", ["dog"])]
    assert rows(folder, part="val") == rows(folder, part="valid") == [("b.png", ["dog"])]
    found = ingested(tmp_path, f"{folder}#train", eval=f"{folder}#val")
    assert (found.rows, found.labels) == ({"train": 1, "eval": 1}, ("dog",))
    with pytest.raises(DataError, match=r"write one of them, as in .*#train"):
        read(folder)
    with pytest.raises(DataError, match="has no split 'trian'; did you mean 'train'"):
        read(folder, part="trian")


@pytest.mark.parametrize(
    ("files", "picture", "labels", "names"),
    [
        ({"classes.txt": "cat\ndog\n", "notes.json": "{}"}, "images/a.jpg", "labels/a.txt", ["dog"]),  # Label Studio
        ({"labels/classes.txt": "cat\ndog\n"}, "images/a.jpg", "labels/a.txt", ["dog"]),  # LabelImg
        ({"classes.txt": "cat\ndog\n"}, "a.jpg", "a.txt", ["dog"]),
        ({"_darknet.labels": "cat\ndog\n"}, "a.jpg", "a.txt", ["dog"]),  # Roboflow's Darknet
        ({"../data.yaml": ROBOFLOW}, "images/a.jpg", "labels/a.txt", ["dog"]),
        ({}, "images/deep/a.jpg", "labels/deep/a.txt", ["1"]),
    ],
)
def test_one_folder_of_images_and_labels_is_read(
    tmp_path: Path, files: dict[str, str], picture: str, labels: str, names: list[str]
) -> None:
    folder = tmp_path / "set" / "part"
    for name, content in files.items():
        text(folder / name, content)
    image(folder / picture)
    text(folder / labels)
    assert find_source(folder, "it").key() == "yolo"
    assert rows(folder) == [("a.jpg", names)]


def test_a_description_can_be_given_itself(tmp_path: Path) -> None:
    path = text(tmp_path / "set.yaml", "train: images\nnames: [no, yes, on, '12']\n")
    image(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", "0 .5 .5 .1 .1\n1 .5 .5 .1 .1\n3 .5 .5 .1 .1\n")
    assert rows(path) == [("a.jpg", ["no", "yes", "12"])]
    assert find_source(path, "it").key() == "yolo"


def one(folder: Path, line: str, yaml: str = "train: images\nnames: [cat, dog]\n", orientation: int = 1) -> Path:
    text(folder / "data.yaml", yaml)
    image(folder / "images" / "a.jpg", orientation)
    text(folder / "labels" / "a.txt", line)
    return folder


def boxes(folder: Path, path: Path, **format_: Any) -> Any:
    data = {"train": str(path), "eval": str(path)} | ({"format": {"type": "yolo", **format_}} if format_ else {})
    return build_snapshot(open_store(str(folder / "s")), ObjectDetection(), DataSpec.model_validate(data)).train.row(0)


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        "1  0.5\t0.5 0.25 5e-1\r\n\r\n",
        "\ufeff1.0 0.5 0.5 0.25 0.5",
        "1 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75\n",  # a rotated box, by its corners
        "1 0.375 0.25 0.625 0.5 0.5 0.75\n",  # a polygon
    ],
)
def test_boxes_and_polygons_are_boxes_in_pixels(tmp_path: Path, line: str) -> None:
    row = boxes(tmp_path, one(tmp_path / "set", line))
    assert row["boxes"] == [pytest.approx(box) for box in PIXELS]
    assert row["labels"] == ["dog"]


def test_a_photo_taken_sideways_has_shares_of_what_is_seen(tmp_path: Path) -> None:
    assert boxes(tmp_path, one(tmp_path / "set", LINE, orientation=6))["boxes"] == [[7.5, 10.0, 5.0, 20.0]]


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("cxcywh", "1 20 10 10 10"),
        ("xywh", "1 15 5 10 10"),
        ("xyxy", "1 15 5 25 15"),
        ("xyxy-shares", "1 0.375 0.25 0.625 0.75"),
        ("shares", "1 0.375 0.25 0.25 0.5"),
    ],
)
def test_other_meanings_of_a_line_are_written(tmp_path: Path, form: str, line: str) -> None:
    assert boxes(tmp_path, one(tmp_path / "set", line), boxes=form)["boxes"] == [pytest.approx(box) for box in PIXELS]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "1 20 10 10 10",
            "holds 20, and numbers are shares of the image, 0 to 1: if they are pixels, write data.format",
        ),
        ("2 .5 .5 .1 .1", "names class 2, and classes are 0 cat, 1 dog"),
        ("-1 .5 .5 .1 .1", "begins with -1; a class number is wanted"),
        ("1.5 .5 .5 .1 .1", "begins with 1.5; a class number is wanted"),
        ("dog .5 .5 .1 .1", "is 'dog .5 .5 .1 .1'; a class number and a box or polygon are wanted"),
        ("1,.5,.5,.1,.1", "a class number and a box or polygon are wanted"),
        ("1 .5 .5 .1", "has 4 numbers; wanted are 5"),
        ("1 .5 .5 .1 .1 .9", "has 6 numbers; wanted are 5 .*is the sixth a score"),
        ("1", "has 1 numbers"),
        ("1 .5 .5 nan .1", "is not finite"),
        ("1 .5 .5 0 .1", r"box 1 is \[20, 9, 0, 2\] and has no area"),
        ("1 .9 .5 .4 .1", r"lies outside of its image of 40 x 20 pixels"),
    ],
)
def test_a_wrong_line_is_a_bad_row(tmp_path: Path, line: str, message: str) -> None:
    path = one(tmp_path / "set", "0 .5 .5 .1 .1\n" + line)
    with pytest.raises(DataError, match=message) as refused:
        ingested(tmp_path, path)
    assert "labels/a.txt:2: " in str(refused.value) or "images/a.jpg: box 1 is" in str(refused.value)


def test_key_points_are_left_out_and_counted(tmp_path: Path) -> None:
    path = one(
        tmp_path / "set", LINE.strip() + " .1 .1 2 .2 .2 1\n", "kpt_shape: [2, 3]\ntrain: images\nnames: [cat, dog]\n"
    )
    assert boxes(tmp_path, path)["boxes"] == [pytest.approx(box) for box in PIXELS], "marks of visibility are 0 to 2"
    path = one(
        tmp_path / "set", LINE.strip() + " .1 .1 .2 .2\n", "kpt_shape: [2, 2]\ntrain: images\nnames: [cat, dog]\n"
    )
    assert boxes(tmp_path, path)["boxes"] == [pytest.approx(box) for box in PIXELS]
    assert any("key points are left out" in note for note in ingested(tmp_path, path).notes)


def test_a_line_that_repeats_another_is_read_once_and_counted(tmp_path: Path) -> None:
    path = one(tmp_path / "set", LINE + LINE.replace("1 ", "0 ", 1) + LINE)
    assert boxes(tmp_path, path)["labels"] == ["dog", "cat"]
    assert any(
        "lines that repeat another of their image are read once: 2 rows" in note
        for note in notes(ingested(tmp_path, path))
    )


def test_what_is_passed_over_or_assumed_is_counted(tmp_path: Path) -> None:
    path = one(tmp_path / "set", "1 0.375 0.25 0.625 0.5 0.5 0.75\n")
    text(path / "labels" / "train.cache", "x")
    text(path / "images" / "note.pdf", "x")
    image(path / "images" / "b.jpg")
    image(path / "images" / "c.jpg")
    text(path / "labels" / "c.txt", "")
    assert sorted(notes(ingested(tmp_path, path))) == [
        f"an image without a file of labels is taken as one without objects: 2 rows, the first {path}/images/b.jpg",
        f"passed over files named *.cache: 2, the first {path}/labels/train.cache",
        f"passed over files named *.pdf (documents: convert their pages to .png): 2, the first {path}/images/note.pdf",
        f"polygons are read as the box around them: 2 rows, the first {path}/images/a.jpg",
    ]


def test_class_numbers_are_the_labels_where_nothing_names_them_and_that_is_said(tmp_path: Path) -> None:
    path = one(tmp_path / "set", LINE)
    (path / "data.yaml").unlink()
    found = ingested(tmp_path, path)
    assert found.labels == ("1",)
    assert any(note.startswith("no data.yaml and no classes.txt names the classes") for note in found.notes)


def test_images_of_which_none_has_labels_can_be_predicted_and_not_trained_on(tmp_path: Path) -> None:
    path = one(tmp_path / "set", LINE)
    (path / "labels" / "a.txt").unlink()
    assert [row.values for row in read(path)] == [{"image": f"{path}/images/a.jpg"}]
    with pytest.raises(DataError, match=r"no image has a file of labels: it is looked for as .*/set/labels/a\.txt"):
        ingested(tmp_path, path)


def test_labels_without_an_image_are_a_bad_row(tmp_path: Path) -> None:
    path = one(tmp_path / "set", LINE)
    text(path / "labels" / "z.txt")
    [bad] = [row for row in read(path) if row.problem]
    assert (bad.where, bad.problem) == (
        f"{path}/labels/z.txt",
        "holds labels of an image that is not there: add the image, or move it away",
    )


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\nnames: [cat]\nnc: 2\n", "nc is 2, and there are 1 names"),
        ("train: images\nnames: cat\n", "names is no list of class names"),
        ("train: gone\nnames: [cat]\n", "does not exist, though .* names it"),
        ("path: .\nnames: [cat]\n", "names no images: write train and val"),
        ("train: x.txt\nnames: [cat]\n", "there is no image 'images/z.jpg'"),
    ],
)
def test_a_wrong_description_is_named(tmp_path: Path, yaml: str, message: str) -> None:
    path = one(tmp_path / "set", LINE, yaml)
    text(path / "x.txt", "images/z.jpg\n")
    with pytest.raises(DataError, match=message):
        ingested(tmp_path, path)


def test_other_folders_and_files_are_not_taken_for_yolo(tmp_path: Path) -> None:
    text(tmp_path / "spec.yaml", "name: x\nbase: y\n")
    text(tmp_path / "large.yaml", "names: [" + "a," * 600_000 + "b]\ntrain: x\n")
    image(tmp_path / "captions" / "a.jpg")
    text(tmp_path / "captions" / "a.txt", "a photo of 2 dogs")
    image(tmp_path / "cats" / "b.jpg")
    for path in (tmp_path, tmp_path / "spec.yaml", tmp_path / "large.yaml", tmp_path / "captions"):
        assert not Yolo().accepts(path)
    with pytest.raises(DataError, match=r"a data\.yaml with names, train and val is wanted"):
        read(tmp_path / "captions")


@pytest.mark.parametrize("top", ["", "train/"])
def test_masks_in_a_folder_of_labels_are_not_yolo_whatever_texts_are_beside_them(tmp_path: Path, top: str) -> None:
    for name in ("images/a.png", "labels/a.png"):
        image(tmp_path / f"{top}{name}")
    text(tmp_path / f"{top}labels" / "classes.txt", "cat\ndog\n")
    text(tmp_path / f"{top}labels" / "b.txt", "")
    assert not Yolo().accepts(tmp_path)
    if not top:
        assert find_source(tmp_path, "it").key() == "masks"
    text(tmp_path / f"{top}labels" / "a.txt")
    assert Yolo().accepts(tmp_path)


def test_the_first_labels_that_say_something_show_what_a_folder_is(tmp_path: Path) -> None:
    for name, content in {"a": "", "b": " \n", "c": "\n" + LINE}.items():
        image(tmp_path / f"{name}.jpg")
        text(tmp_path / f"{name}.txt", content)
    assert find_source(tmp_path, "it").key() == "yolo"
    assert rows(tmp_path) == [("a.jpg", []), ("b.jpg", []), ("c.jpg", ["1"])]


@pytest.mark.parametrize("beside", [True, False])
def test_texts_that_hold_no_labels_are_counted(tmp_path: Path, beside: bool) -> None:
    image(tmp_path / ("a.jpg" if beside else "images/a.jpg"))
    folder = tmp_path if beside else tmp_path / "labels"
    text(folder / "a.txt")
    text(folder / "README.roboflow.txt", "Exported from Roboflow.\n")
    text(folder / "LICENSE.txt", "\nMIT\n")
    found = read(tmp_path)
    assert [row.problem for row in found] == [None] * 3
    assert [row.ignored for row in found if row.ignored] == ["files named *.txt"] * 2


@pytest.mark.parametrize("yaml", ["path: .\nnames: [cat, dog]\n", "train: gone\nnames: [cat, dog]\n"])
def test_class_folders_beside_a_description_that_leads_nowhere_are_images(tmp_path: Path, yaml: str) -> None:
    text(tmp_path / "data.yaml", yaml)
    for name in ("cat/a.jpg", "dog/b.jpg"):
        image(tmp_path / name)
    assert find_source(tmp_path, "it").key() == "images"


def test_images_beside_the_folders_of_splits_are_counted(tmp_path: Path) -> None:
    for name in ("train/a", "val/b", "extra"):
        image(tmp_path / "images" / f"{name}.jpg")
        text(tmp_path / "labels" / f"{name}.txt")
    ignored = [(row.where, row.ignored) for row in read(tmp_path, part="train") if row.ignored]
    assert ignored == [
        (f"{tmp_path}/images/extra.jpg", "images beside the folders of splits, which belong to no split")
    ]


def test_names_in_another_encoding_are_refused_with_the_file(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt")
    (tmp_path / "classes.txt").write_bytes("Bäume\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"classes\.txt: is not text in UTF-8"):
        read(tmp_path)
    (tmp_path / "classes.txt").write_text("")
    assert rows(tmp_path) == [("a.jpg", ["1"])]


def test_names_of_darknet_in_s3_are_read(moto_url: str, tmp_path: Path) -> None:
    store = open_store(moto_url)
    store.put("set/a.jpg", image(tmp_path / "a.jpg").read_bytes())
    store.put("set/a.txt", LINE.encode())
    store.put("set/_darknet.labels", b"cat\ndog\n")
    assert boxes(tmp_path, f"{moto_url}/set")["labels"] == ["dog"]  # type: ignore[arg-type]


def test_a_folder_in_s3_is_read_by_reference(moto_url: str, tmp_path: Path) -> None:
    path = one(tmp_path / "set", LINE)
    store = open_store(moto_url)
    for file in path.rglob("*.*"):
        store.put(f"set/{file.relative_to(path)}", file.read_bytes())
    row = boxes(tmp_path, f"{moto_url}/set")  # type: ignore[arg-type]
    assert (row["boxes"], row["labels"]) == (PIXELS, ["dog"])


@pytest.mark.slow
def test_a_run_trains_on_a_yolo_folder(tmp_path: Path) -> None:
    document = json.loads(rectangles(tmp_path / "coco", images=8, seed=1).read_text())
    text(tmp_path / "set" / "data.yaml", f"train: train/images\nval: valid/images\nnames: {list(CLASSES)}\n")
    for number, item in enumerate(document["images"]):
        folder = tmp_path / "set" / ("train" if number % 4 else "valid")
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "coco" / item["file_name"]).rename(folder / "images" / item["file_name"])
        notes = [note for note in document["annotations"] if note["image_id"] == item["id"]]
        lines = [
            f"{note['category_id'] - 1} {(x + w / 2) / SIDE} {(y + h / 2) / SIDE} {w / SIDE} {h / SIDE}\n"
            for note in notes
            for x, y, w, h in [note["bbox"]]
        ]
        text(folder / "labels" / f"{Path(item['file_name']).stem}.txt", "".join(lines))
    spec = {
        "name": "yolo",
        "base": str(tiny_yolos(tmp_path / "base")),
        "task": "object-detection",
        "method": "full",
        "data": {"train": f"{tmp_path}/set#train", "eval": f"{tmp_path}/set#valid"},
        "training": {"steps": 2, "batch_size": 4, "baselines": False},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(tmp_path / "store"),
    }
    outcome = train_local(RunSpec.resolve(spec))
    assert 0 <= outcome.metrics["map"] <= 1
