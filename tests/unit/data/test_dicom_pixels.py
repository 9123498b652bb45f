"""DICOM as scanners and archives write it: colours, padding, windows, and what holds no picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.contracts import Raw
from regraft.data.ingest import ingest
from regraft.data.inputs import find_source
from regraft.data.sources.dicom import Dicom
from regraft.data.sources.nifti import Nifti
from regraft.errors import DataError
from regraft.spec.sections import DataSpec
from regraft.tasks.image_classification import ImageClassification
from unit.data.scans import scan, volume

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("nibabel")

BASIC_TEXT_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def seen(path: Path, **form: Any) -> list[Any]:
    """Return the pixels of a file's only row."""
    [row] = [row for row in Dicom(**form).read(path) if not row.ignored]
    assert row.problem is None, row.problem
    return np.asarray(Image.open(io.BytesIO(row.values["image"]))).tolist()


def colour(path: Path, kind: str, pixels: Any, bits: int = 8, **fields: Any) -> Path:
    """Write a file in colour, or with a palette where `pixels` have two axes."""
    array = np.asarray(pixels, np.uint16 if bits > 8 else np.uint8)
    samples = array.shape[2] if array.ndim == 3 else 1
    size = 16 if bits > 8 else 8
    scan(path, np.zeros(array.shape[:2]), PhotometricInterpretation=kind)
    dataset = pydicom.dcmread(path)
    dataset.SamplesPerPixel, dataset.PixelRepresentation = samples, 0
    if samples > 1:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = size, bits, bits - 1
    for name, value in fields.items():
        if "Descriptor" in name:
            dataset.add_new(name, "US", value)
        else:
            setattr(dataset, name, value)
    content = array.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW" if size == 16 else "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    # Red is (76, 85, 255) in YBR_FULL (PS3.3, C.7.6.3.1.2).
    path = colour(tmp_path / "us.dcm", "YBR_FULL", [[(76, 85, 255), (255, 128, 128)]])
    assert np.abs(np.array(seen(path)) - [[(255, 0, 0), (255, 255, 255)]]).max() <= 2


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_colours_of_more_bits_are_scaled(bits: int, tmp_path: Path) -> None:
    white = 2**bits - 1
    path = colour(tmp_path / "a.dcm", "RGB", [[(white, 0, white // 2), (white // 4, 1, 2)]], bits=bits)
    assert np.abs(np.array(seen(path)) - [[(255, 0, 127), (64, 0, 0)]]).max() <= 1


@pytest.mark.parametrize("depth", [8, 16])
def test_a_palette_gives_colours(depth: int, tmp_path: Path) -> None:
    scale = 257 if depth == 16 else 1
    tables = {
        name: np.array(values, f"<u{depth // 8}") * np.array(scale, f"<u{depth // 8}")
        for name, values in (("Red", [255, 0, 10, 0]), ("Green", [0, 255, 20, 0]), ("Blue", [0, 0, 30, 255]))
    }
    fields: dict[str, Any] = {f"{name}PaletteColorLookupTableData": table.tobytes() for name, table in tables.items()}
    fields |= {f"{name}PaletteColorLookupTableDescriptor": [4, 0, depth] for name in tables}
    path = colour(tmp_path / "pet.dcm", "PALETTE COLOR", [[0, 1], [2, 3]], **fields)
    assert seen(path) == [[[255, 0, 0], [0, 255, 0]], [[10, 20, 30], [0, 0, 255]]]


def test_colours_of_a_kind_that_is_not_read_are_a_bad_row(tmp_path: Path) -> None:
    [row] = Dicom().read(colour(tmp_path / "a.dcm", "HSV", [[(1, 2, 3)] * 2]))
    assert "colours are of the kind HSV, which is not read: convert it to RGB" in str(row.problem)


@pytest.mark.parametrize("stored", [-2000, 63536])
def test_padding_is_black_and_no_part_of_the_range(stored: int, tmp_path: Path) -> None:
    """GE's scanners write -2000 of signed pixels as 63536."""
    path = scan(tmp_path / "a.dcm", [[-2000, 0], [100, 200]])
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "SS" if stored < 0 else "US", stored)
    dataset.save_as(path)
    assert seen(path) == [[0, 0], [128, 255]]
    assert seen(path, window=(100, 1)) == [[0, 0], [255, 255]]


def test_a_range_of_padding_and_inverted_greys(tmp_path: Path) -> None:
    fields = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1900}
    path = scan(tmp_path / "a.dcm", [[-2000, -1950], [0, 200]], PhotometricInterpretation="MONOCHROME1", **fields)
    assert seen(path) == [[0, 0], [255, 0]]


def test_a_file_of_padding_alone_is_black(tmp_path: Path) -> None:
    assert seen(scan(tmp_path / "a.dcm", [[-7, -7]], PixelPaddingValue=-7)) == [[0, 0]]


@pytest.mark.parametrize(
    "fields",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 0, "WindowWidth": -1},
        {"WindowCenter": [100, 50], "WindowWidth": [0, 0]},
        {"WindowCenter": "", "WindowWidth": 5},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_a_window_without_a_width_gives_the_full_range_and_is_counted(fields: Any, tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", [[0, 100], [200, 300]], **fields)
    assert seen(path) == [[0, 85], [170, 255]]
    kinds = [row.ignored for row in Dicom().read(path)]
    assert kinds == ["windows without a width (the full range of values is used)", ""]


def test_the_first_window_with_a_width_counts(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", [[0, 100], [200, 300]], WindowCenter=[7, 100.5], WindowWidth=[0, 201])
    assert seen(path) == [[0, 128], [255, 255]]
    assert len(list(Dicom().read(path))) == 1


def test_other_window_functions_are_those_of_the_standard(tmp_path: Path) -> None:
    fields = {"WindowCenter": 100, "WindowWidth": 200, "RescaleSlope": 1, "RescaleIntercept": -1024}
    stored = np.array([[0, 50], [100, 300]]) + 1024
    path = scan(tmp_path / "exact.dcm", stored, VOILUTFunction="LINEAR_EXACT", **fields)
    assert seen(path) == [[0, 64], [128, 255]]
    path = scan(tmp_path / "sigmoid.dcm", stored, VOILUTFunction="SIGMOID", **fields)
    expected = 255 / (1 + np.exp(-4 * (np.array([[0, 50], [100, 300]]) - 100) / 200))
    assert np.abs(np.array(seen(path)) - expected).max() <= 0.5


@pytest.mark.parametrize("bits", [12, 16])
def test_a_lookup_table_gives_its_greys(bits: int, tmp_path: Path) -> None:
    """Some scanners write 16 bits for a table of entries of 12."""
    path = scan(tmp_path / "a.dcm", [[0, 1], [2, 3]], BitsStored=12, HighBit=11, PixelRepresentation=0)
    dataset = pydicom.dcmread(path)
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [4, 0, bits])
    table.add_new("LUTData", "US", [4095, 2048, 1024, 0])
    dataset.VOILUTSequence = [table]
    dataset.save_as(path)
    assert np.abs(np.array(seen(path)) - [[255, 128], [64, 0]]).max() <= 1


def test_frames_of_an_enhanced_object_have_their_own_window_and_scale(tmp_path: Path) -> None:
    path = scan(tmp_path / "mr.dcm", [[[0, 100]], [[0, 100]]])
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence = [_group(0, 101, 201), _group(-100, 0.5, 201)]
    dataset.save_as(path)
    rows = [np.asarray(Image.open(io.BytesIO(row.values["image"]))).tolist() for row in Dicom().read(path)]
    assert rows == [[[0, 127]], [[0, 128]]]


def _group(intercept: float, centre: float, width: float) -> Any:
    group, scale, shown = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, intercept, "US"
    shown.WindowCenter, shown.WindowWidth = centre, width
    group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [scale], [shown]
    return group


def test_a_slope_of_zero_is_a_bad_row(tmp_path: Path) -> None:
    [row] = Dicom().read(scan(tmp_path / "a.dcm", [[0, 1]], RescaleSlope=0, RescaleIntercept=0))
    assert "rescale slope is 0" in str(row.problem)


@pytest.mark.parametrize("source", [Dicom, Nifti])
def test_a_window_without_a_width_is_refused_in_a_spec(source: Callable[..., Any], tmp_path: Path) -> None:
    scan(tmp_path / "a.dcm", [[0, 1]])
    volume(tmp_path / "a.nii", [[[1]]])
    with pytest.raises(DataError, match="a width of 0 is written; the least is 1"):
        list(source(window=(40, 0)).read(tmp_path))


def without_pixels(path: Path, kind: str) -> Path:
    """Write an object that has no pixels."""
    scan(path, [[0]])
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    if kind != SEGMENTATION:
        del dataset.PixelData
    dataset.save_as(path, enforce_file_format=True)
    return path


def export(folder: Path) -> Path:
    """Write what an archive exports: an index, a viewer, patients, studies and series, and a report."""
    for patient in (1, 2):
        for series, name in ((1, "IM1"), (1, "1.2.840.113619.2.55"), (2, "IM3.ima")):
            series_folder = folder / "DICOM" / f"PA{patient}" / "ST1" / f"SE{series}"
            scan(series_folder / name, [[0, patient * 10 + series, len(name)]], patient=f"p{patient}")
    without_pixels(folder / "DICOM" / "PA1" / "ST1" / "SR1", BASIC_TEXT_REPORT)
    without_pixels(folder / "DICOM" / "PA1" / "ST1" / "PR1", PRESENTATION_STATE)
    without_pixels(folder / "DICOM" / "PA2" / "ST1" / "PDF1.dcm", ENCAPSULATED_PDF)
    without_pixels(folder / "DICOM" / "PA2" / "ST1" / "SEG.dcm", SEGMENTATION)
    scan(folder / "DICOMDIR", [[0]])
    for name in ("VIEWER/viewer.exe", "README.TXT", "autorun.inf", "VIEWER/help.htm", "LOCKFILE", ".DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image" * 30)
    return folder


def test_an_archives_export_is_read_and_all_else_is_counted(tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    assert find_source(folder, "it").key() == "dicom"
    raws = list(Dicom().read(folder))
    assert not [raw for raw in raws if raw.problem]
    assert len([raw for raw in raws if "image" in raw.values]) == 6
    assert {raw.where for raw in raws} == {str(path) for path in folder.rglob("*") if path.is_file()}
    kinds = {Path(raw.where).name: raw.ignored for raw in raws if raw.ignored}
    assert kinds["DICOMDIR"] == "DICOMDIR files, which are indexes of folders"
    assert kinds["SR1"] == "DICOM files without pixels (Basic Text SR Storage)"
    assert kinds["SEG.dcm"] == "DICOM files of Segmentation Storage, which are masks"
    assert kinds["viewer.exe"] == "files named *.exe"


def test_reports_and_the_index_stop_no_run(tmp_path: Path) -> None:
    for label in ("round", "square"):
        for number in range(6):
            scan(tmp_path / "scans" / label / f"s{number}.dcm", [[0, number + 1, len(label)]])
    scan(tmp_path / "scans" / "DICOMDIR", [[0]])
    without_pixels(tmp_path / "scans" / "round" / "report.dcm", BASIC_TEXT_REPORT)
    data = DataSpec(train=str(tmp_path / "scans"), eval=0.3)
    done = ingest(ImageClassification(), data, tmp_path)
    assert sum(done.rows.values()) == 12
    notes = [note for note in done.notes if note.startswith("passed over")]
    assert len(notes) == 2 and "passed over DICOM files without pixels" in notes[1]


def test_an_image_without_its_pixels_is_a_bad_row(tmp_path: Path) -> None:
    [row] = Dicom().read(without_pixels(tmp_path / "a.dcm", "1.2.840.10008.5.1.4.1.1.2"))
    assert "not readable as DICOM" in str(row.problem)


def test_a_link_that_leads_nowhere_is_a_bad_row(tmp_path: Path) -> None:
    scan(tmp_path / "a.dcm", [[0, 1]])
    (tmp_path / "b.dcm").symlink_to("objects/b")
    rows = list(Dicom().read(tmp_path))
    assert [bool(row.problem) for row in rows] == [False, True]


def test_a_file_without_a_preamble_is_read(tmp_path: Path) -> None:
    path = scan(tmp_path / "old.dcm", [[0, 100]])
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x08\x00\x16\x00") :])  # from the data set's first element
    assert seen(path) == [[0, 255]]


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619.2.1", "IM1.IMA", "a.DCM"])
def test_one_file_is_known_by_its_magic_number(name: str, tmp_path: Path) -> None:
    assert find_source(scan(tmp_path / name, [[0, 1]]), "it").key() == "dicom"


def test_only_the_first_volume_of_a_series_is_read_and_that_is_counted(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii", np.arange(16).reshape(2, 2, 2, 2))
    (tmp_path / "notes.txt").write_text("about a")
    (tmp_path / "b.nii").symlink_to("objects/b")
    rows: list[Raw] = list(Nifti().read(tmp_path))
    assert [row.ignored for row in rows if row.ignored] == [
        "files named *.txt",
        "later volumes of series (the first of each is read)",
    ]
    assert len([row for row in rows if "image" in row.values]) == 2
    assert [Path(row.where).name for row in rows if row.problem] == ["b.nii"]


def test_a_volume_of_colours_is_a_bad_row(tmp_path: Path) -> None:
    import nibabel

    colours = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "a.nii")
    [row] = Nifti().read(tmp_path / "a.nii")
    assert "plain numbers are wanted" in str(row.problem)


@pytest.mark.filterwarnings("ignore")
def test_every_file_that_pydicom_tests_with_is_read_named_or_counted() -> None:
    """They come from scanners and tools of many makers: big endian, without a header, compressed, damaged, reports."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    raws = list(Dicom().read(folder))
    assert {raw.where.partition(":frame")[0] for raw in raws} == {
        str(path) for path in folder.rglob("*") if path.is_file()
    }
    read = {Path(raw.where.partition(":frame")[0]).name for raw in raws if "image" in raw.values}
    made_for = {"MR_small_bigendian.dcm", "examples_palette.dcm", "examples_ybr_color.dcm", "SC_rgb_rle_16bit.dcm"}
    assert made_for | {"ExplVR_BigEnd.dcm", "SC_rgb_rle_32bit.dcm"} <= read
    named = {Path(raw.where).name: str(raw.problem) for raw in raws if raw.problem}
    assert "pip install 'pylibjpeg[all]'" in named.get("JPGExtended.dcm", "pip install 'pylibjpeg[all]'")
    assert "MR_truncated.dcm" in named
    counted = {Path(raw.where).name for raw in raws if raw.ignored}
    assert {"reportsi.dcm", "waveform_ecg.dcm", "liver_1frame.dcm", "rtdose.dcm", "rtstruct.dcm"} <= counted
