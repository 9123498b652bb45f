"""Images in S3 are not copied: rows name them by URL, and they are fetched when a row is used."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from doubles.fake_s3 import FakeS3
from doubles.fake_tasks import Seeing, Sorting
from regraft.columns.files import remote
from regraft.columns.files.remote import beginning, fetched_ahead
from regraft.columns.image import ImageColumn
from regraft.contracts import Source
from regraft.contracts.column import BadCell
from regraft.contracts.file_ref import FileRef
from regraft.data.ingest import ingest
from regraft.data.inputs import find_data_files
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import DataError, NotFound, StoreError
from regraft.media.pixels.images import open_rgb, upright_size
from regraft.spec.sections import DataSpec
from regraft.store.objects import ObjectStore, open_store
from regraft.tasks.image_classification import ImageClassification
from regraft.tasks.object_detection import ObjectDetection
from regraft.tasks.semantic_segmentation import SemanticSegmentation
from unit.store.conftest import flaky as flaky
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.store.conftest import moto_url as moto_url
from unit.store.conftest import small_server as small_server
from unit.store.conftest import small_url as small_url


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    remote.beginning.cache_clear()
    remote._bucket.cache_clear()


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (12, 8), grey: bool = False) -> bytes:
    noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    (Image.new("L", size, 1) if grey else Image.fromarray(noise)).save(file, kind)
    return file.getvalue()


def put(url: str, files: dict[str, bytes]) -> ObjectStore:
    store = open_store(url)
    for name, content in files.items():
        store.put(name, content)
    return store


def classes(count: int = 12) -> dict[str, bytes]:
    return {f"{'ab'[number % 2]}/{number:02}.png": picture(number) for number in range(count)}


def built(task: Any, folder: Path, train: str, **data: Any) -> Snapshot:
    spec = {"train": train, "eval": train, **data}
    return build_snapshot(open_store(str(folder / "store")), task, DataSpec.model_validate(spec))


def test_a_folder_of_class_folders_is_read_by_reference(moto_url: str, tmp_path: Path) -> None:
    files = classes()
    put(moto_url, {**files, "a/notes.pdf": b"passed over"})
    snapshot = built(ImageClassification(), tmp_path, moto_url)
    kept = [snapshot.train.stored(index) for index in range(len(snapshot.train))]
    names = [*sorted(name for name in files if name[0] == "a"), *sorted(name for name in files if name[0] == "b")]
    assert [row["image"] for row in kept] == [f"{moto_url}/{name}" for name in names]
    rows = [snapshot.train.row(index) for index in range(len(snapshot.train))]
    assert [row["image"] for row in rows] == [files[name] for name in names]
    assert [row["label"] for row in rows] == [name[0] for name in names]
    size = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.arrow"))
    assert size < 10_000 * 2


def test_a_bucket_as_phones_and_consoles_fill_it_is_read_named_or_counted(moto_url: str, tmp_path: Path) -> None:
    files = {**classes(), "a/phone.jfif": picture(50, "JPEG"), "b/without_suffix": picture(51)}
    others = {"c/IMG_2.HEIC": b"photo", "a/IMG_1.HEIC": b"photo", "b/Thumbs.db": b"x", ".DS_Store": b"x"}
    put(moto_url, {**files, **others})
    snapshot = built(ImageClassification(), tmp_path, moto_url, bad_rows="skip")
    assert len(snapshot.train) == len(files)
    assert [snapshot.train.row(index)["image"] for index in range(len(files))].count(files["a/phone.jfif"]) == 1
    notes = "\n".join(snapshot.notes)
    assert (
        f"passed over files named *.heic (photos in HEIF, which are not read: convert to .jpg): 4, the first {moto_url}"
        in notes
    )
    assert f"{moto_url}/c: is a class folder of which nothing is read" in "\n".join(snapshot.skipped["rows"])


def test_the_same_images_fall_on_the_same_side_in_s3_and_in_a_folder(moto_url: str, tmp_path: Path) -> None:
    files = classes(40)
    put(moto_url, files)
    for name, content in files.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(content)
    sides = []
    for train in (moto_url, str(tmp_path / "here")):
        held = built(Seeing(), tmp_path, train, eval=0.3).eval
        sides.append([held.stored(index)["image"].rpartition("/")[2] for index in range(len(held))])
    assert sides[0] == sides[1]
    assert sides[0]


def test_a_table_in_s3_names_images_beside_it_and_a_local_one_names_them_by_url(moto_url: str, tmp_path: Path) -> None:
    put(moto_url, {"deep/img/x.png": picture(1), "y.jpg": picture(2, "JPEG")})
    table = f"image,label\nimg/x.png,a\n../y.jpg,b\n{moto_url}/y.jpg,a\n"
    put(moto_url, {"deep/rows.csv": table.encode()})
    train = built(Seeing(), tmp_path, f"{moto_url}/deep/rows.csv").train
    wanted = [f"{moto_url}/{name}" for name in ("deep/img/x.png", "y.jpg", "y.jpg")]
    assert [train.stored(index)["image"] for index in range(3)] == wanted
    assert open_rgb(train.row(1)["image"]).size == (12, 8)
    (tmp_path / "rows.csv").write_text(f"image,label\n{moto_url}/y.jpg,a\n{moto_url}/deep/img/x.png,b\n")
    assert built(Seeing(), tmp_path, str(tmp_path / "rows.csv")).train.row(0)["image"] == picture(2, "JPEG")


@pytest.mark.parametrize("beside", [True, False])
def test_coco_in_s3_is_read_as_a_folder_or_by_its_document(moto_url: str, tmp_path: Path, beside: bool) -> None:
    document = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "none.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    put(moto_url, {"set/coco.json": json.dumps(document).encode(), "set/a.png": picture(1)})
    train = f"{moto_url}/set" if beside else f"{moto_url}/set/coco.json"
    with pytest.raises(DataError) as refused:
        built(ObjectDetection(), tmp_path, train)
    message = f"{moto_url}/set/coco.json:image 2: image: there is no image {moto_url}/set/none.png"
    assert message in str(refused.value)
    row = built(ObjectDetection(), tmp_path, train, bad_rows="skip").train.row(0)
    assert (row["image"], row["boxes"], row["labels"]) == (picture(1), [[1.0, 2.0, 3.0, 4.0]], ["cell"])


def test_a_document_here_may_name_a_folder_of_images_in_s3(moto_url: str, tmp_path: Path) -> None:
    put(moto_url, {"pictures/a.png": picture(1)})
    document = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}
    (tmp_path / "coco.json").write_text(json.dumps(document))
    form = Source.parse({"type": "coco", "images": f"{moto_url}/pictures/"})
    assert isinstance(form, Source)
    [file] = find_data_files(str(tmp_path / "coco.json"), form, tmp_path)
    assert [raw.values["image"] for raw in file.rows()] == [f"{moto_url}/pictures/a.png"]


def test_masks_in_s3_are_checked_against_their_images(moto_url: str, tmp_path: Path) -> None:
    put(moto_url, {f"images/{name}.jpg": picture(1, "JPEG") for name in "abc"})
    put(moto_url, {"masks/a_mask.png": picture(0, grey=True), "masks/b_mask.png": picture(0, size=(12, 9), grey=True)})
    task = SemanticSegmentation(labels=("ground", "person"))
    snapshot = built(task, tmp_path, moto_url, bad_rows="skip")
    assert [snapshot.train.stored(0)[name] for name in ("image", "mask")] == [
        f"{moto_url}/images/a.jpg",
        f"{moto_url}/masks/a_mask.png",
    ]
    assert len(snapshot.train) == 1
    messages = "\n".join(snapshot.skipped["rows"])
    assert f"{moto_url}/images/b.jpg: mask" in messages
    assert f"{moto_url}/images/c.jpg: has no mask: c_mask.png or c.png is looked for in {moto_url}/masks" in messages


@pytest.mark.parametrize("content", [b"", b"no image", picture(1)[:20]])
def test_what_is_no_image_is_named_by_its_url(moto_url: str, tmp_path: Path, content: bytes) -> None:
    put(moto_url, {**classes(4), "a/99.png": content})
    with pytest.raises(DataError) as refused:
        built(Seeing(), tmp_path, moto_url)
    assert f"\n  - {moto_url}/a/99.png: image: {moto_url}/a/99.png " in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_only_the_beginning_of_an_image_is_fetched_when_it_is_checked(moto_url: str, tmp_path: Path) -> None:
    large = picture(1, "JPEG", (900, 700))
    assert len(large) > 2 << 17
    store = put(moto_url, {"a.jpg": large, "b.tif": picture(2, "TIFF", (400, 300)), "c.png": picture(3)})
    image = ImageColumn()
    head, total = beginning(f"{moto_url}/a.jpg", image.complete)
    assert (len(head), total, upright_size(head)) == (1 << 17, len(large), (900, 700))
    assert upright_size(beginning(f"{moto_url}/b.tif", image.complete)[0]) == (400, 300)
    assert beginning(f"{moto_url}/c.png", image.complete) == (picture(3), len(picture(3)))
    assert store.read_start("a.jpg", 10) == (large[:10], len(large))
    store.put("empty", b"")
    assert store.read_start("empty", 10) == (b"", 0)
    with pytest.raises(NotFound):
        store.read_start("none", 10)


class Unfetched(ImageColumn):
    """An image of which all bytes may not be looked at."""

    def problem(self, content: bytes) -> str:
        raise AssertionError("all of it was fetched")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\0\0\0\x18ftypisom" + bytes(3_000), "is not an image that can be read"),
        (bytes(3_000), "is not an image that can be read"),
        (b"RIFF\0\0\0\0AVI " + bytes(3_000), "is not an image that can be read"),
        (picture(1, "TIFF", (60, 40)), "at most 2.0 kB of a picture are read"),
    ],
)
def test_of_a_large_object_the_beginning_is_looked_at_before_the_rest_is_fetched(
    moto_url: str, monkeypatch: pytest.MonkeyPatch, content: bytes, problem: str
) -> None:
    monkeypatch.setattr(remote, "LARGE", 1_000)
    monkeypatch.setattr(remote, "_BEGINNING", 500)
    monkeypatch.setattr(Unfetched, "most_bytes", 2_000 if problem.startswith("at most") else None)
    put(moto_url, {"a.png": content})
    image = Unfetched()
    for _ in range(2):
        with pytest.raises(BadCell, match=problem):
            image.read_cell(f"{moto_url}/a.png", "")
        image.prefetch(f"{moto_url}/a.png")


@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF"])
def test_a_large_picture_is_read_wherever_its_header_is(
    moto_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(remote, "LARGE", 1_000)
    monkeypatch.setattr(remote, "_BEGINNING", 60)
    put(moto_url, {"a": picture(1, kind, (160, 120))})
    found = ImageColumn().read_cell(f"{moto_url}/a", "")
    assert isinstance(found, FileRef) and len(found.sha256) == 64


def test_an_image_that_went_away_is_reported_by_its_url(moto_url: str, tmp_path: Path) -> None:
    store = put(moto_url, classes(4))
    snapshot = built(Seeing(), tmp_path, moto_url)
    store.delete(["a/00.png"])
    with pytest.raises(NotFound, match=r"a/00\.png"):
        snapshot.train.row(0)


@pytest.mark.parametrize("fault", ["503", "reset", "cut"])
def test_a_store_that_fails_now_and_then_is_asked_again(flaky: FakeS3, tmp_path: Path, fault: str) -> None:
    url = "s3://b/pictures"
    put(url, classes(4))
    flaky.fault = lambda request: (
        fault if request.key.endswith("0.png") and flaky.seen.count(f"GET {request.key}") % 3 else ""
    )
    snapshot = built(Seeing(), tmp_path, url)
    assert [snapshot.train.row(index)["image"] for index in range(2)] == [picture(0), picture(2)]
    assert flaky.seen.count("GET pictures/a/00.png") >= 4


def test_a_store_that_does_not_answer_is_no_matter_of_a_row(
    small_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text(f"image,label\n{small_url}/a.png,a\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.001)
    with pytest.raises(StoreError):
        ingest(Seeing(), DataSpec(train=str(tmp_path / "rows.csv"), bad_rows="skip"), tmp_path)


def test_files_side_by_side_and_parts_are_read_from_s3(moto_url: str, tmp_path: Path) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, train_images=np.zeros((2, 4, 4), np.uint8), train_labels=np.arange(2))
    put(moto_url, {"x.npz": arrays.getvalue(), "en/t.tok": b"a\nb\n", "de/t.tok": b"x\ny\n", "fr/t.tok": b"x\n"})
    [file] = find_data_files(f"{moto_url}/x.npz#train", None, tmp_path / "1")
    assert [(raw.values["label"], raw.where) for raw in file.rows()] == [
        (0, f"{moto_url}/x.npz:1"),
        (1, f"{moto_url}/x.npz:2"),
    ]
    [file] = find_data_files(f"{moto_url}/{{en,de}}/t.tok", None, tmp_path / "2")
    assert [raw.values for raw in file.rows()] == [{"en": "a", "de": "x"}, {"en": "b", "de": "y"}]
    [file] = find_data_files(f"{moto_url}/{{en,fr}}/t.tok", None, tmp_path / "3")
    with pytest.raises(DataError) as refused:
        list(file.rows())
    assert f"{moto_url}/en/t.tok has 2 lines, {moto_url}/fr/t.tok has 1 line" in refused.value.message
    with pytest.raises(DataError, match="no object has this name"):
        list(find_data_files(f"{moto_url}/{{en,es}}/t.tok", None, tmp_path / "4"))


def test_a_folder_of_tables_is_not_downloaded_to_be_refused(moto_url: str, tmp_path: Path) -> None:
    put(moto_url, {"part-1.parquet": b"x" * 1000})
    with pytest.raises(DataError, match=r"such as s3://.*/\*\.csv"):
        list(find_data_files(moto_url, None, tmp_path / "scratch"))
    assert not sum(path.stat().st_size for path in (tmp_path / "scratch").rglob("*.parquet"))


def test_a_text_task_reads_a_folder_of_the_datasets_library_from_s3(moto_url: str, tmp_path: Path) -> None:
    data = pa.table({"text": ["x", "y"], "label": [0, 1]})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data)
    info = {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}
    put(
        moto_url,
        {
            "train/data.arrow": sink.getvalue(),
            "train/state.json": json.dumps({"_data_files": [{"filename": "data.arrow"}]}).encode(),
            "train/dataset_info.json": json.dumps(info).encode(),
            "dataset_dict.json": b'{"splits": ["train"]}',
        },
    )
    assert built(Sorting(), tmp_path, f"{moto_url}#train").labels == ("no", "yes")


def test_a_pattern_of_images_in_s3_is_not_downloaded(moto_url: str, tmp_path: Path) -> None:
    put(moto_url, {name: picture(1) for name in ("a.png", "b.png", "c.jpg")})
    files = list(find_data_files(f"{moto_url}/*.png", None, tmp_path / "scratch"))
    assert [raw.values for file in files for raw in file.rows()] == [
        {"image": f"{moto_url}/{name}"} for name in ("a.png", "b.png")
    ]
    assert not sum(path.stat().st_size for path in (tmp_path / "scratch").rglob("*.png"))


def test_looking_ahead_changes_neither_order_nor_number(moto_url: str) -> None:
    put(moto_url, {f"{number}.png": picture(number) for number in range(3)})
    image = ImageColumn()
    wanted = [(image, f"{moto_url}/{number}.png") for number in range(5)]
    seen = list(fetched_ahead(range(200), lambda number: wanted[number : number + 1]))
    assert seen == list(range(200))


@pytest.mark.parametrize("bad_rows", ["fail", "skip"])
def test_a_missing_bucket_is_no_fault_of_a_row(moto_url: str, tmp_path: Path, bad_rows: str) -> None:
    rows = [{"image": f"s3://no-such-bucket/{number}.png", "label": "ab"[number % 2]} for number in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(StoreError, match="bucket does not exist"):
        built(ImageClassification(), tmp_path, str(tmp_path / "rows.json"), bad_rows=bad_rows)


def test_an_expired_key_is_named_where_an_answer_has_no_body(flaky: FakeS3) -> None:
    store = put("s3://b/p", {"x.png": b"x"})
    flaky.fault = lambda request: "400:ExpiredToken"
    with pytest.raises(StoreError, match="expired"):
        store.tag("x.png")


def test_a_missing_object_is_still_a_missing_object(small_url: str) -> None:
    with pytest.raises(NotFound):
        put(small_url, {"x.png": b"x"}).tag("y.png")
