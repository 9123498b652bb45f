"""DICOM and NIfTI: measured values become the right grey levels, and a patient stays on one side."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.contracts import Source
from regraft.data.ingest import ingest
from regraft.data.sources.dicom import Dicom
from regraft.data.sources.nifti import Nifti
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.tasks.image_classification import ImageClassification
from unit.data.scans import scan, volume

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")


def grey(image: bytes) -> list[list[int]]:
    return np.asarray(Image.open(io.BytesIO(image))).tolist()


def test_slope_and_window_give_the_grey_levels_of_the_standard(tmp_path: Path) -> None:
    # 1 and 3 times 2 minus 1000 are -998 and -994; the window's centre 0 and width 2001 span -1000 to 1000.
    path = scan(tmp_path / "a.dcm", [[0, 500], [1000, 1500]], RescaleSlope=2, RescaleIntercept=-1000)
    (row,) = Dicom(window=(0.5, 2001)).read(path)
    assert grey(row.values["image"]) == [[0, 128], [255, 255]]
    (row,) = Dicom(window="bone").read(path)
    expected = [((hu - 479.5) / 2499 + 0.5) * 255 for hu in (-1000, 0, 1000, 2000)]
    assert np.abs(np.ravel(grey(row.values["image"])) - np.clip(expected, 0, 255)).max() <= 0.5


def test_the_files_own_window_counts_unless_another_is_written(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", [[0, 100], [200, 300]], WindowCenter=[100.5, 7], WindowWidth=[201, 9])
    assert grey(next(Dicom().read(path)).values["image"]) == [[0, 128], [255, 255]]
    assert grey(next(Dicom(window="full").read(path)).values["image"]) == [[0, 85], [170, 255]]


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", [[0, 100], [200, 300]], PhotometricInterpretation="MONOCHROME1")
    assert grey(next(Dicom().read(path)).values["image"]) == [[255, 170], [85, 0]]


def test_every_frame_is_a_row_with_what_the_file_says(tmp_path: Path) -> None:
    path = scan(tmp_path / "cine.dcm", [[[0, 1], [2, 3]], [[3, 2], [1, 0]]], patient="p7")
    rows = list(Dicom().read(path))
    assert [row.values["frame"] for row in rows] == [1, 2]
    assert [row.where for row in rows] == [f"{path}:frame 1", f"{path}:frame 2"]
    assert rows[0].values["patient_id"] == "p7" and rows[0].values["modality"] == "CT"


def test_a_table_brings_labels_by_file_or_by_patient(tmp_path: Path) -> None:
    for number in (1, 2):
        scan(tmp_path / "scans" / f"s{number}.dcm", [[0, number]], patient=f"p{number}")
    (tmp_path / "labels.csv").write_text("file,label\ns1,sick\ns2.dcm,well\n")
    rows = list(Dicom(table=str(tmp_path / "labels.csv")).read(tmp_path / "scans"))
    assert [row.values["label"] for row in rows] == ["sick", "well"]
    (tmp_path / "labels.csv").write_text("who,label\np1,sick\n")
    with pytest.raises(DataError, match="has no column 'patient_id'"):
        list(Dicom(table=str(tmp_path / "labels.csv"), table_key="patient_id").read(tmp_path / "scans"))
    (tmp_path / "labels.csv").write_text("patient_id,label\np1,sick\n")
    first, second = Dicom(table=str(tmp_path / "labels.csv"), table_key="patient_id").read(tmp_path / "scans")
    assert first.problem is None and "no row whose patient_id is 'p2'" in str(second.problem)


def test_a_file_that_is_no_dicom_is_a_bad_row_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"no image at all" * 20)
    scan(tmp_path / "b.dcm", [[0, 1]])
    bad, good = Dicom().read(tmp_path)
    assert bad.where == str(tmp_path / "a.dcm") and "not readable as DICOM" in str(bad.problem)
    assert good.problem is None


def patients(folder: Path, who: dict[str, str]) -> Path:
    """Write class folders of scans: a scan for each file name, of the patient that it maps to."""
    for number, (name, patient) in enumerate(who.items()):
        scan(folder / ("sick" if number % 2 else "well") / f"{name}.dcm", [[0, number + 1]] * 2, patient=patient)
    return folder


def test_a_folder_of_class_folders_is_distinguished_from_one_of_pictures(tmp_path: Path) -> None:
    folder = patients(tmp_path / "scans", {"a": "p1", "b": "p2"})
    takers = [name for name in Source.names() if name not in ("parallel",) and Source.lookup(name)().accepts(folder)]
    assert takers == ["dicom"]


def test_a_share_keeps_a_patient_on_one_side(tmp_path: Path) -> None:
    folder = patients(tmp_path / "scans", {f"s{number}": f"p{number // 4}" for number in range(80)})
    data = DataSpec(train=str(folder), eval=0.4, group="patient_id")
    gathered = ingest(ImageClassification(), data, tmp_path)
    assert gathered.rows["train"] % 4 == 0 and gathered.rows["eval"] % 4 == 0
    assert gathered.rows["train"] and gathered.rows["eval"]


def test_a_patient_on_both_given_sides_is_refused(tmp_path: Path) -> None:
    train = patients(tmp_path / "train", {"a": "p1", "b": "p2"})
    held = patients(tmp_path / "eval", {"c": "p3", "d": "p1"})
    data = DataSpec(train=str(train), eval=str(held), group="patient_id")
    with pytest.raises(DataError, match="1 value of 'patient_id' is in the training rows and in the evaluation"):
        ingest(ImageClassification(), data, tmp_path)


def marked() -> Any:
    """Write a volume of 2 x 3 x 4 voxels; the voxel furthest right, front and top is bright."""
    values = np.zeros((2, 3, 4))
    values[1, 2, 3] = 100
    return values


def test_slices_are_seen_as_radiologists_see_them(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii.gz", marked())
    rows = list(Nifti(window=(50.5, 101)).read(path))
    assert [row.values["slice"] for row in rows] == [0, 1, 2, 3]
    assert grey(rows[3].values["image"]) == [[255, 0], [0, 0], [0, 0]]  # right on the left, front up
    (_, _, front) = Nifti(window=(50.5, 101), axis="coronal").read(path)
    assert grey(front.values["image"])[0] == [255, 0]  # top up


def test_another_orientation_of_the_file_is_the_same_patient(tmp_path: Path) -> None:
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    path = volume(tmp_path / "a.nii", marked()[::-1, ::-1], affine=turned)
    rows = list(Nifti(window=(50.5, 101)).read(path))
    assert grey(rows[3].values["image"]) == [[255, 0], [0, 0], [0, 0]]


def test_slope_and_intercept_count(tmp_path: Path) -> None:
    path = volume(tmp_path / "a.nii", [[[500]], [[700]]], slope=2.0, inter=-1000.0)
    # Stored are 500 and 700; measured are 0 and 400, of which a threshold at 200 lets one through.
    (row,) = Nifti(window=(200, 1)).read(path)
    assert grey(row.values["image"]) == [[255, 0]]


def test_masks_lie_on_their_slices(tmp_path: Path) -> None:
    volume(tmp_path / "images" / "p1.nii.gz", marked())
    volume(tmp_path / "truth" / "p1.nii.gz", marked() / 50)
    rows = list(Nifti(masks="truth", labelled=True).read(tmp_path / "images"))
    assert len(rows) == 1 and rows[0].values["slice"] == 3
    assert grey(rows[0].values["mask"]) == [[2, 0], [0, 0], [0, 0]]


def test_a_mask_of_another_shape_and_a_damaged_volume_are_bad_rows(tmp_path: Path) -> None:
    volume(tmp_path / "images" / "p1.nii", marked())
    volume(tmp_path / "truth" / "p1.nii", np.zeros((2, 3, 5)))
    (tmp_path / "images" / "p2.nii.gz").write_bytes(b"\x1f\x8b not a volume")
    first, second = Nifti(masks="truth").read(tmp_path / "images")
    assert "(2, 3, 5)" in str(first.problem) and "not readable as NIfTI" in str(second.problem)
