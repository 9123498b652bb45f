"""Source of DICOM files: medical images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from regraft.contracts import Raw, Source
from regraft.data.arrays import encode_png
from regraft.data.dicom_pixels import DicomFrame, frames_of, library, not_a_picture, read_dataset
from regraft.data.file_kinds import DICOM_SUFFIXES, is_dicom
from regraft.data.folders import BROKEN_LINK, BROKEN_LINKS, dicom_entries, has_dicom
from regraft.data.metadata_table import MetadataTable
from regraft.errors import DataError
from regraft.media.pixels.grey_levels import named_window

_FIELDS = {
    "patient_id": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
    "modality": "Modality",
    "view": "ViewPosition",
}


class Dicom(Source):
    """DICOM files (PS3.10), one or a folder of them at any depth; every frame is a row. Needs the extra `medical`.

    The columns are `image` and the file's fields `patient_id`, `study`, `series`, `instance`, `modality`, `view` and
    `frame`; `label` is the name of the file's folder; a `table` adds its columns. Stored values are converted to
    measured ones (rescale slope and intercept, or the file's lookup table), then to grey levels by the window.
    MONOCHROME1 is inverted, so that bright is always dense; padding is black; palettes and YBR become RGB. Files that
    hold no picture (DICOMDIR, reports, masks) are counted. `data.group: patient_id` keeps a patient on one side.
    """

    suffixes = DICOM_SUFFIXES
    window: Literal["file", "full"] | str | tuple[float, float] = "file"
    """file: the first window with a width that the file names, else its full range. full: always its full range. Or a
    name (abdomen, bone, brain, lung, mediastinum), or [centre, width] in the file's units (Hounsfield for CT)."""
    table: str | None = None
    """A CSV file with more columns, such as labels; `table_key` says to which file a row of it belongs."""
    table_key: str = "file"
    """The column of the table that identifies files: `file` has file names; any other (`patient_id`, `study`, ...) is
    compared with the files' field of that name."""

    def accepts(self, path: Path) -> bool:
        """Accept a DICOM file, and a folder that contains one, itself or in its subfolders."""
        if path.is_dir():
            return has_dicom(path)
        return super().accepts(path) or (path.is_file() and is_dicom(path))

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by path and frame; a file that is not DICOM, or cannot be decoded, is a bad row."""
        library()
        window = named_window(self.window, "file", "full")
        table = MetadataTable(Path(self.table).expanduser(), self.table_key) if self.table else None
        if path.is_file():
            yield from self._rows(path, {}, window, table)
            return
        found = 0
        for file, passed_over in dicom_entries(path):
            if passed_over == BROKEN_LINKS:
                yield Raw({}, str(file), BROKEN_LINK)
            elif passed_over:
                yield Raw({}, str(file), ignored=passed_over)
            else:
                found += 1
                label = {"label": file.parent.name} if file.parent != path else {}
                yield from self._rows(file, label, window, table)
        if not found:
            raise DataError("holds no DICOM file", str(path))

    def _rows(
        self, file: Path, values: Mapping[str, Any], window: str | tuple[float, float], table: MetadataTable | None
    ) -> Iterator[Raw]:
        """Yield the rows of one file."""
        try:
            dataset = read_dataset(file)
            if kind := not_a_picture(dataset):
                yield Raw({}, str(file), ignored=kind)
                return
            fields = {name: str(dataset.get(keyword, "")) for name, keyword in _FIELDS.items()}
            frames = frames_of(dataset, window)
        except Exception as error:  # the errors of decoders on damaged files have no common class
            yield Raw(dict(values), str(file), _problem(error))
            return
        more: Mapping[str, Any] = {}
        if table is not None:
            name = file.name if self.table_key == "file" else fields.get(self.table_key, "")
            entry = table.find(name)
            if entry is None:
                yield Raw(dict(values), str(file), table.missing_message(name))
                return
            more = entry
        yield from _frame_rows(file, {**fields, **values}, more, frames)


def _frame_rows(
    file: Path, values: Mapping[str, Any], more: Mapping[str, Any], frames: list[DicomFrame]
) -> Iterator[Raw]:
    for number, frame in enumerate(frames, 1):
        where = f"{file}:frame {number}" if len(frames) > 1 else str(file)
        if frame.doubt:
            yield Raw({}, where, ignored=frame.doubt)
        yield Raw({**values, "frame": number, **more, "image": encode_png(frame.pixels)}, where)


def _problem(error: Exception) -> str:
    """Return the message for a file that cannot be decoded, with the way out for a missing decoder."""
    text = " ".join(str(error).split())
    if "missing dependencies" in text:
        kind = re.search(r"'([^']+)'", text)
        compressed = f" ({kind[1]})" if kind else ""
        return f"is compressed in a way{compressed} whose decoder is missing: pip install 'pylibjpeg[all]'"
    other = "; another decoder may read it: pip install 'pylibjpeg[all]'" if "available plugins" in text else ""
    return f"is not readable as DICOM: {type(error).__name__}: {text}{other}"
