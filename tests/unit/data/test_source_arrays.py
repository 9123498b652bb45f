"""NumPy archives: columns by name, pixels as image files, and errors that list the arrays."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from doubles.fake_tasks import Seeing
from regraft.contracts import Raw
from regraft.data.arrays import encode_png
from regraft.data.ingest import ingest
from regraft.data.inputs import find_data_files
from regraft.data.sources.npz import Npz
from regraft.errors import DataError
from regraft.media.pixels.images import upright_size
from regraft.spec.sections import DataSpec
from support.paths import ROOT, SHARED

DATA = SHARED / "data"


def saved(path: Path, **content: Any) -> Path:
    np.savez_compressed(path, **content)
    return path


def read(path: Path, **fields: Any) -> list[Raw]:
    return list(Npz(**fields).read(path))


def pixels(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)))


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 300), st.integers(1, 300))
        | st.tuples(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3, 4])),
    )
)
def test_an_image_file_holds_the_pixels_it_was_made_of(array: Any) -> None:
    found = pixels(encode_png(array))
    assert np.array_equal(found, array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def test_an_image_file_has_the_same_bytes_everywhere() -> None:
    """Otherwise a row could change sides of the split with the version of a compressor."""
    expected = (
        "89504e470d0a1a0a0000000d4948445200000002000000010800000000d14920560000000e4944415478010103"
        "00fcff000102000700046cf839680000000049454e44ae426082"
    )
    assert encode_png(np.array([[1, 2]], np.uint8)).hex() == expected
    large = encode_png(np.zeros((300, 300), np.uint8))
    assert len(large) == 300 * 301 + 2 * 5 + 2 + 4 + 57


@pytest.mark.parametrize(
    ("array", "first"),
    [
        (np.full((2, 3, 4, 3), 7, np.uint8), (3, 4, 3)),
        (np.full((2, 3, 5, 6), 7, np.uint8), (5, 6, 3)),
        (np.full((2, 3, 4, 1), 7, np.int64), (3, 4)),
        (np.full((2, 3, 4), 7 / 255, np.float32), (3, 4)),
        (np.asfortranarray(np.full((2, 3, 4), 7, ">u2")), (3, 4)),
    ],
)
def test_arrays_of_images_in_any_layout(tmp_path: Path, array: Any, first: tuple[int, ...]) -> None:
    [row, _] = read(saved(tmp_path / "x.npz", images=array, labels=[0, 1]))
    assert pixels(row.values["image"]).shape == first
    assert (pixels(row.values["image"]) == 7).all()


def test_rows_of_fortran_arrays_are_in_order(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(4, 2, 3))
    rows = read(saved(tmp_path / "x.npz", images=array, labels=range(4)))
    assert [pixels(row.values["image"]).tolist() for row in rows] == array.tolist()


def test_truth_values_are_black_and_white_in_images_and_classes_in_masks(tmp_path: Path) -> None:
    both = np.array([[[True, False]]])
    [row] = read(saved(tmp_path / "x.npz", images=both, masks=both))
    assert pixels(row.values["image"]).tolist() == [[255, 0]]
    assert pixels(row.values["mask"]).tolist() == [[1, 0]]


def test_everything_of_a_part_is_a_column(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "x.npz",
        train_images=np.zeros((2, 2, 2), np.uint8),
        train_labels=np.array([[1], [0]]),
        train_patient_id=np.array(["p", "q"]),
        train_scores=np.array([[1.5, 2], [3, 4]]),
        val_images=np.zeros((3, 2, 2), np.uint8),
        version=np.array(3),
    )
    rows = [{name: value for name, value in row.values.items() if name != "image"} for row in read(path, part="train")]
    assert rows == [
        {"label": 1, "patient_id": "p", "scores": [1.5, 2.0]},
        {"label": 0, "patient_id": "q", "scores": [3.0, 4.0]},
    ]


def test_arrays_are_named_where_their_names_are_their_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", pixels=np.zeros((2, 2, 2), np.uint8), classes=[3, 4], train_pixels=np.zeros(5))
    with pytest.raises(DataError, match=r"write which they are, as in data\.format: \{type: npz, images: pixels"):
        read(path)
    with pytest.raises(DataError, match=r"do not have one length: pixels \(2, 2, 2\), .*train_pixels \(5,\)"):
        read(path, images="pixels", labels="classes")
    path = saved(tmp_path / "y.npz", pixels=np.zeros((2, 2, 2), np.uint8), classes=[3, 4])
    rows = read(path, images="pixels", labels="classes")
    assert [(upright_size(row.values["image"]), row.values["label"]) for row in rows] == [((2, 2), 3), ((2, 2), 4)]
    with pytest.raises(DataError, match=r"has no array 'nothing'\. It holds pixels, classes"):
        read(path, images="nothing")


@pytest.mark.parametrize(
    ("column", "names"), [("image", ("x", "images")), ("label", ("y", "labels")), ("mask", ("mask", "masks"))]
)
def test_of_two_arrays_for_one_column_one_is_written(tmp_path: Path, column: str, names: tuple[str, str]) -> None:
    pair = {name: np.full((2, 1, 1), place, np.uint8) for place, name in enumerate(names)}
    path = saved(tmp_path / "x.npz", **{"image": np.zeros((2, 1, 1), np.uint8), **pair} if column != "image" else pair)
    with pytest.raises(DataError, match=f"holds '{names[0]}' and '{names[1]}', and either may be") as refused:
        read(path)
    if column == "mask":
        assert "leave one of them out" in refused.value.message
        return
    assert f"{{type: npz, {names[1]}: {names[1]}}}" in refused.value.message
    rows = read(path, **{names[1]: names[1]})
    assert [(Path(row.where).name, row.ignored) for row in rows if row.ignored] == [
        (f"x.npz:{names[0]}.npy", "arrays that are not read")
    ]
    cells = [row.values[column] for row in rows if not row.ignored]
    assert [pixels(cell).item() if column == "image" else cell for cell in cells] == [1, 1]


def test_what_is_no_column_is_named_by_its_kind(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", images=np.zeros((1, 1, 1), np.uint8), version=np.array(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "x")
    assert [row.ignored for row in read(path)] == ["arrays without rows", "files that are no arrays", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": np.array([{}, {}], dtype=object)}, "array images holds Python objects or records, which are never"),
        ({"images": np.zeros((2, 4), np.uint8)}, r"array images is \(2, 4\) of uint8; images are numbers of"),
        ({"images": np.zeros((2, 5, 5, 7), np.uint8)}, "images have 1, 3 or 4 channels, last or first"),
        ({"images": np.zeros((2, 4, 4), complex)}, "of complex128; images are numbers of"),
        ({"images": np.zeros((0, 4, 4), np.uint8), "labels": [1]}, "do not have one length"),
        ({"train_images": np.zeros((1, 2, 2)), "x_test": np.zeros((1, 2, 2))}, r"as in #train .*\(test, train\)"),
    ],
)
def test_archives_that_cannot_be_rows_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = saved(tmp_path / "x.npz", **content)
    with pytest.raises(DataError, match=message) as refused:
        read(path)
    assert refused.value.where == str(path)


@pytest.mark.parametrize("value", [-1, 256, 0.5, 70000.0])
def test_values_that_are_no_pixels_are_a_bad_row(tmp_path: Path, value: float) -> None:
    kind = np.int32 if value in (-1, 256) else np.float64
    images = np.zeros((3, 2, 2), kind)
    images[1, 0, 0] = value
    rows = read(saved(tmp_path / "x.npz", masks=images, labels=[0, 1, 0]))
    assert [bool(row.problem) for row in rows] == [False, True, False]
    assert rows[1].where == f"{tmp_path / 'x.npz'}:2"
    assert rows[1].problem
    assert "mask: holds values of" in rows[1].problem


def test_an_archive_that_is_cut_or_spoilt_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", images=np.random.default_rng(0).integers(0, 9, (200, 8, 8), np.uint8))
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-30])
    with pytest.raises(DataError, match="is not readable as a NumPy archive"):
        read(path)
    content[2000] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not readable as a NumPy archive"):
        read(path)


def test_an_array_shorter_than_it_says_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 2, 2), np.uint8))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", file.getvalue()[:-2])
    with pytest.raises(DataError, match="array images ends at row 3 of 3: the file is cut short"):
        read(tmp_path / "x.npz")


LARGE = """
import sys
from pathlib import Path
from support.peak_memory import peak
from regraft.data.sources.npz import Npz
before = peak()
rows = sum(1 for _ in Npz().read(Path(sys.argv[1])))
print(rows, (peak() - before) >> 20)
"""


def test_memory_holds_a_row_and_not_the_archive(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", images=np.zeros((3000, 128, 128), np.uint8), labels=np.arange(3000))
    folders = (str(ROOT / part) for part in ("platform", "tests"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    run = subprocess.run(
        [sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True, env=environment, check=True
    )
    rows, grown_mib = map(int, run.stdout.split())
    assert rows == 3000
    assert grown_mib < 8


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: set REGRAFT_SHARED to the folder that holds data/")
@pytest.mark.parametrize(
    ("name", "counts", "size"),
    [
        ("pneumoniamnist/pneumoniamnist.npz#test", {"0", "1"}, (28, 28)),
        ("digits_mnist_usps/usps.npz#test", set("0123456789"), (16, 16)),
    ],
)
def test_published_archives_are_read(tmp_path: Path, name: str, counts: set[str], size: tuple[int, int]) -> None:
    data = DataSpec(train=str(DATA / name), eval=0.2)
    gathered = ingest(Seeing(), data, tmp_path)
    assert set(gathered.labels) == counts
    assert sum(gathered.rows.values()) == {"p": 624, "d": 2007}[name[0]]
    [file] = find_data_files(str(DATA / name), None, tmp_path)
    assert upright_size(next(file.rows()).values["image"]) == size
