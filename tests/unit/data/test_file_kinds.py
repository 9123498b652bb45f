"""Every file of a folder of images is read, named or counted, whatever its suffix."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.file_kinds import IMAGE_SUFFIXES, has_image_magic, leftover_kind, suffix_of, unread_kind
from regraft.data.folders import FolderContents
from regraft.data.ingest import IngestedRows, ingest
from regraft.data.inputs import find_data_files, find_source
from regraft.data.sources.images import Images
from regraft.errors import DataError
from regraft.media.pixels.images import FORMATS, open_rgb
from regraft.spec.sections import DataSpec
from regraft.tasks.image_classification import ImageClassification


def picture(kind: str = "PNG", number: int = 0, mode: str = "RGB") -> bytes:
    """Return a small image file, of other pixels for each number."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


READ = {
    **dict.fromkeys(("jpg", "JPEG", "jpe", "jfif", "jif", "jfi", "pjpeg", "pjp", "mpo"), "JPEG"),
    **dict.fromkeys(("png", "PNG", "apng"), "PNG"),
    **dict.fromkeys(("tif", "TIFF"), "TIFF"),
    **dict.fromkeys(("jp2", "j2k", "jpx", "jpf"), "JPEG2000"),
    **dict.fromkeys(("ppm", "pnm"), "PPM"),
    **{kind.lower(): kind for kind in ("GIF", "BMP", "DIB", "WEBP", "AVIF", "TGA", "ICO", "ICNS")},
    **{kind.lower(): kind for kind in ("PCX", "SGI", "DDS", "QOI", "IM", "BLP")},
}
"""Suffixes of images that are read, and the format that each is written in."""
PALE = {"pbm": ("PPM", "1"), "pgm": ("PPM", "L"), "xbm": ("XBM", "1"), "msp": ("MSP", "1"), "blp": ("BLP", "P")}
COUNTED = (
    *("heic", "HEIF", "hif", "dng", "CR2", "nef", "arw", "raw", "jxl", "exr", "svg", "eps", "ps", "pdf", "ai", "xcf"),
    *("czi", "svs", "mp4", "mov", "zip", "dcm", "nii", "npy", "txt", "xml.bak", "csv", "json", "jpg_large", "jpg~"),
    *("THM", "xmp", "part", "html", "wmf", "emf", "h5", "mpg"),
)
"""Suffixes of what is counted by kind."""


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders: one with an image of each suffix that is read, one that has all other suffixes, too."""
    folder = tmp_path_factory.mktemp("matrix") / "photos"
    for name in ("many", "other"):
        (folder / name).mkdir(parents=True)
    for number, (suffix, kind) in enumerate(READ.items()):
        if suffix not in PALE:
            (folder / "many" / f"x{number}.{suffix}").write_bytes(picture(kind, number))
    for number, (suffix, (kind, mode)) in enumerate(PALE.items()):
        (folder / "many" / f"y{number}.{suffix}").write_bytes(picture(kind, 100 + number, mode))
    for number, suffix in enumerate(COUNTED):
        (folder / "other" / f"z{number}.{suffix}").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n" * 20)
    for number in range(4):
        (folder / "other" / f"p{number}.png").write_bytes(picture("PNG", 200 + number))
    (folder / "other" / "without_suffix").write_bytes(picture("JPEG", 300))
    (folder / "other" / "scan.20240131").write_bytes(picture("TIFF", 301))
    (folder / "other" / "README").write_text("no image")
    return folder


def read_all(folder: Path, scratch: Path) -> IngestedRows:
    scratch.mkdir(exist_ok=True)
    data = DataSpec(train=str(folder), eval=0.3, bad_rows="skip", format=Images())
    return ingest(ImageClassification(), data, scratch)


def test_every_file_of_sixty_suffixes_is_read_or_counted(matrix: Path, tmp_path: Path) -> None:
    files = [file for file in matrix.rglob("*") if file.is_file()]
    raws = list(Images().read(matrix))
    assert {raw.where for raw in raws} == {str(file) for file in files}
    assert len(raws) == len(files) > 70
    counted = {suffix_of(raw.where) for raw in raws if raw.ignored}
    assert counted == {suffix_of(f"x.{suffix}") for suffix in COUNTED} | {""}
    done = read_all(matrix, tmp_path / "scratch")
    assert not done.skipped
    assert done.rows["train"] + done.rows["eval"] == sum(not raw.ignored for raw in raws)


def test_every_image_that_is_read_can_be_decoded(matrix: Path) -> None:
    for raw in Images().read(matrix):
        if "image" in raw.values:
            assert min(open_rgb(raw.values["image"]).size) > 0, raw.where


def test_all_that_pillow_reads_without_a_program_is_read() -> None:
    Image.init()
    never = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC", "PALM", "PDF"}
    known = {suffix for suffix, kind in Image.EXTENSION.items() if kind not in never}
    assert known <= set(IMAGE_SUFFIXES)
    assert not never & set(FORMATS)


@pytest.mark.parametrize("suffix", [suffix for suffix in COUNTED if suffix not in ("txt", "csv", "json", "jpg~")])
def test_what_is_passed_over_is_named_by_its_suffix(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"no image")
    assert f"*{suffix_of(f'a.{suffix}')}" in unread_kind(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("IMG_0001.HEIC", r"photos in HEIF.*convert to \.jpg"),
        ("DSC_1.NEF", r"raw data of cameras.*develop"),
        ("logo.svg", r"drawings.*convert to \.png"),
        ("figure.eps", r"drawings"),
        ("slide.czi", r"microscope.*Fiji"),
        ("clip.mp4", r"films: extract"),
        ("scan.dcm", r"data\.format: dicom"),
    ],
)
def test_the_way_out_is_said(name: str, way_out: str, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(picture(number=ord(label)))
    (tmp_path / "a" / name).write_bytes(b"x" * 200)
    [kind] = [raw.ignored for raw in Images().read(tmp_path) if raw.ignored]
    assert re.search(way_out, kind)


def test_an_image_under_a_suffix_of_no_image_is_counted_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg_large").write_bytes(picture("JPEG"))
    assert unread_kind(tmp_path / "a.jpg_large") == (
        "files named *.jpg_large (images by their first bytes: rename them, as to .jpg)"
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "JPEG2000", "PPM", "QOI", "ICO"])
def test_the_first_bytes_show_an_image(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(picture(kind))
    assert has_image_magic(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [b"", b"P", b"BM", b"Party at 8", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypheic", b"\0" * 128 + b"DICM" + b"\0" * 9],
)
def test_the_first_bytes_of_other_files_show_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not has_image_magic(tmp_path / "x")


@pytest.mark.parametrize("name", ["photo", "photo.jfif", "photo.avif", "photo.20240131"])
def test_one_image_is_read_by_itself(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(picture("JPEG"))
    [file] = find_data_files(str(tmp_path / name), None, tmp_path / "scratch")
    assert [raw.values for raw in file.rows()] == [{"image": str(tmp_path / name)}]


def test_one_image_that_is_not_read_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    [file] = find_data_files(str(tmp_path / "a.heic"), None, tmp_path / "scratch")
    with pytest.raises(DataError, match=r"files named \*\.heic \(photos in HEIF, which are not read: convert to \.jpg"):
        list(file.rows())


def classes(folder: Path, *names: str) -> Path:
    """Write class folders with two images each."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(2):
            (folder / name / f"{number}.png").write_bytes(picture(number=1000 + number + 2 * len(name)))
    return folder


def bad_rows(folder: Path) -> dict[str, str]:
    return {str(Path(raw.where).relative_to(folder)): raw.problem for raw in Images().read(folder) if raw.problem}


def fill_empty(folder: Path) -> None:
    """Leave it without a file."""


def fill_with_phone_photos(folder: Path) -> None:
    for number in range(3):
        (folder / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")


def fill_with_leftovers(folder: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"\0")


def fill_with_links(folder: Path) -> None:
    (folder / "1.png").symlink_to("../../.git/annex/objects/1")


@pytest.mark.parametrize(
    ("fill", "has"),
    [
        (fill_empty, "nothing"),
        (fill_with_phone_photos, "files named *.heic (photos in HEIF, which are not read: convert to .jpg): 3"),
        (fill_with_leftovers, "nothing"),
        (fill_with_links, "links to files that do not exist: 1"),
    ],
)
def test_a_class_of_which_nothing_is_read_is_a_bad_row(fill: Callable[[Path], None], has: str, tmp_path: Path) -> None:
    folder = classes(tmp_path / "photos", "a", "b")
    (folder / "green").mkdir()
    fill(folder / "green")
    advice = "Add images that are read, or remove the folder"
    assert bad_rows(folder)["green"] == f"is a class folder of which nothing is read; it has {has}. {advice}"
    with pytest.raises(DataError, match=r"photos/green: is a class folder of which nothing is read"):
        ingest(ImageClassification(), DataSpec(train=str(folder), eval=0.3), tmp_path)


def test_links_that_lead_nowhere_are_bad_rows(tmp_path: Path) -> None:
    folder = classes(tmp_path / "photos", "a", "b")
    for number in range(3):
        (folder / "a" / f"lost{number}.png").symlink_to(f".git/annex/objects/{number}")
    (folder / "c").symlink_to("no/such/folder")
    problems = bad_rows(folder)
    assert sorted(problems) == ["a/lost0.png", "a/lost1.png", "a/lost2.png", "c"]
    assert "link to a file that does not exist: fetch the file (git annex get, dvc pull)" in problems["c"]


def test_a_folder_of_links_that_lead_nowhere_is_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").symlink_to("objects/1")
    assert find_source(tmp_path, "it").key() == "images"


def test_links_that_lead_somewhere_are_read(tmp_path: Path) -> None:
    folder = classes(tmp_path / "photos", "a")
    (folder / "a" / "linked.png").symlink_to(folder / "a" / "0.png")
    (folder / "b").symlink_to(folder / "a")
    assert len([raw for raw in Images().read(folder) if "image" in raw.values]) == 6


def test_each_input_of_a_prediction_is_answered_or_named(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture(number=number))
    for number in (4, 5):
        (tmp_path / f"{number}.png").symlink_to(f"nowhere/{number}.png")
    (tmp_path / "6.heic").write_bytes(b"\0\0\0\x18ftypheic")
    raws = list(Images().read(tmp_path))
    assert len(raws) == 7
    assert [Path(raw.where).name for raw in raws if raw.problem] == ["4.png", "5.png"]
    assert [Path(raw.where).name for raw in raws if raw.ignored] == ["6.heic"]


@pytest.mark.parametrize(
    "junk",
    [
        ("__MACOSX/._round", "__MACOSX/round/._p0.png", ".DS_Store", "a/._0.png"),
        ("Thumbs.db", "a/Thumbs.db", "desktop.ini", "a/ehthumbs.db", "$RECYCLE.BIN/x.png"),
        ("@eaDir/a/SYNOPHOTO_THUMB_M.jpg", "a/@eaDir/0.png/thumb.jpg", "#recycle/0.png"),
        (".ipynb_checkpoints/0-checkpoint.png", ".git/config", "a/.nomedia", "a/.thumbnails/1.jpg"),
        ("System Volume Information/IndexerVolumeGuid", "lost+found/x", "Icon\r", ".directory"),
    ],
)
def test_what_systems_leave_is_no_class_and_no_image(junk: tuple[str, ...], tmp_path: Path) -> None:
    folder = classes(tmp_path / "photos", "a", "b")
    for name in junk:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture())
    raws = list(Images().read(folder))
    assert find_source(folder, "it").key() == "images"
    assert {raw.values["label"] for raw in raws if raw.values} == {"a", "b"}
    assert len([raw for raw in raws if raw.values]) == 4
    assert not [raw for raw in raws if raw.problem]
    assert [raw for raw in raws if raw.ignored]


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("metadata.csv", "file_name,label\n0.png,a\n", "train: pics/metadata.csv, columns: {image: file_name}"),
        ("labels.tsv", "image_id\tlabel\n0\ta\n", "train: pics/labels.tsv, columns: {image: image_id}"),
        ("metadata.jsonl", '{"file_name": "0.png", "label": 1}\n', "pics/metadata.jsonl, columns: {image: file_name}"),
        ("train.csv", "label,Filename\na,0.png\n", "train: pics/train.csv, columns: {image: Filename}"),
        ("odd.csv", "\xff\xfe", "train: pics/odd.csv, columns: {image: file_name}"),
    ],
)
def test_a_table_beside_images_is_named_with_how_to_read_it(
    name: str, content: str, advice: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pics"
    folder.mkdir()
    (folder / "0.png").write_bytes(picture())
    (folder / name).write_text(content, encoding="latin-1")
    table, image = Images().read(folder)
    assert advice in table.ignored
    assert advice in Images().advice(image, ["image", "label"])
    with pytest.raises(DataError) as refused:
        ingest(ImageClassification(), DataSpec(train=str(folder), eval=0.3), tmp_path)
    assert advice in refused.value.message


def test_a_folder_without_an_image_that_is_read_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(DataError, match=r"no images that are read\. It has files named \*\.heic .*: 1; .* \*\.txt: 1"):
        list(Images().read(tmp_path))


@pytest.mark.parametrize("document", ['{\n "0": "cat",\n "1": "dog"\n}', '{\n "cat": 0\n}', '{\n "name": "set"\n}'])
def test_names_of_classes_in_json_are_no_coco_document(document: str, tmp_path: Path) -> None:
    folder = classes(tmp_path / "photos", "a", "b")
    (folder / "classes.json").write_text(document)
    assert find_source(folder, "it").key() == "images"
    (folder / "classes.json").write_text('{\n "images": [],\n "annotations": [],\n "categories": []\n}')
    assert find_source(folder, "it").key() == "coco"


def test_leftovers_are_known_by_their_names() -> None:
    assert leftover_kind("thumbs.DB") == leftover_kind("._a.jpg") == leftover_kind("__MACOSX") != ""
    assert leftover_kind(".hidden") not in ("", leftover_kind("thumbs.db"))
    assert not leftover_kind("cat.png")


def test_a_folder_that_cannot_be_listed_in_order_is_listed_once(tmp_path: Path) -> None:
    folder = classes(tmp_path / "photos", "b", "a")
    shutil.copy(folder / "a" / "0.png", folder / "a" / "00.png")
    assert FolderContents.read(folder / "a").files == ["0.png", "00.png", "1.png"]
