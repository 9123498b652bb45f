"""Source of DICOM files: medical images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Raw, Source
from regraft.data.arrays import encode_png
from regraft.data.folders import DICOM_SUFFIXES, find_dicom_files
from regraft.data.grey_levels import WINDOWS, apply_window, stretch
from regraft.data.metadata_table import MetadataTable
from regraft.errors import DataError, Unsupported

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
    MONOCHROME1 is inverted, so that bright is always dense. `data.group: patient_id` keeps a patient on one side.
    """

    suffixes = DICOM_SUFFIXES
    window: Literal["file", "full"] | str | tuple[float, float] = "file"
    """file: the first window that the file names, else its full range. full: always its full range. Or a name
    (abdomen, bone, brain, lung, mediastinum), or [centre, width] in the file's units (Hounsfield for CT)."""
    table: str | None = None
    """A CSV file with more columns, such as labels; `table_key` says to which file a row of it belongs."""
    table_key: str = "file"
    """The column of the table that identifies files: `file` has file names; any other (`patient_id`, `study`, ...) is
    compared with the files' field of that name."""

    def accepts(self, path: Path) -> bool:
        """Accept a file with such a suffix, and a folder that contains one, itself or in its subfolders."""
        return super().accepts(path) or (path.is_dir() and any(find_dicom_files(path, depth=2)))

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by path and frame; a file that is not DICOM, or cannot be decoded, is a bad row."""
        library()
        window = self._window()
        table = MetadataTable(Path(self.table).expanduser(), self.table_key) if self.table else None
        if path.is_file():
            yield from self._frames(path, {}, window, table)
            return
        found = list(find_dicom_files(path))
        if not found:
            raise DataError("holds no DICOM file", str(path))
        for file in found:
            label = {"label": file.parent.name} if file.parent != path else {}
            yield from self._frames(file, label, window, table)

    def _window(self) -> str | tuple[float, float]:
        """Return `file`, `full`, or the window's centre and width."""
        if not isinstance(self.window, str) or self.window in ("file", "full"):
            return self.window
        if self.window not in WINDOWS:
            allowed = ", ".join(["file", "full", *WINDOWS])
            raise DataError(
                f"{self.window!r} is written; allowed are {allowed}, or [centre, width]", "data.format.window"
            )
        return WINDOWS[self.window]

    def _frames(
        self, file: Path, values: Mapping[str, Any], window: str | tuple[float, float], table: MetadataTable | None
    ) -> Iterator[Raw]:
        try:
            dataset = library().dcmread(file)
            fields = {name: str(dataset.get(keyword, "")) for name, keyword in _FIELDS.items()}
            frames = pixels_of(dataset, window)
        except Exception as error:  # the errors of decoders on damaged files have no common class
            yield Raw(dict(values), str(file), f"is not readable as DICOM: {type(error).__name__}: {error}")
            return
        more: Mapping[str, Any] = {}
        if table is not None:
            name = file.name if self.table_key == "file" else fields.get(self.table_key, "")
            entry = table.find(name)
            if entry is None:
                yield Raw(dict(values), str(file), table.missing_message(name))
                return
            more = entry
        for number, frame in enumerate(frames, 1):
            where = f"{file}:frame {number}" if len(frames) > 1 else str(file)
            yield Raw({**fields, **values, "frame": number, **more, "image": encode_png(frame)}, where)


def pixels_of(dataset: Any, window: str | tuple[float, float]) -> list[NDArray[np.uint8]]:
    """Return every frame of a data set: (height, width) grey levels, or (height, width, 3) in colour."""
    array: NDArray[Any] = dataset.pixel_array
    colour = int(dataset.get("SamplesPerPixel", 1)) > 1
    frames = array if array.ndim == (4 if colour else 3) else array[None]
    if colour:
        return [np.ascontiguousarray(frame.astype(np.uint8)) for frame in frames]
    return [_grey(dataset, frame, window) for frame in frames]


def _grey(dataset: Any, frame: NDArray[Any], window: str | tuple[float, float]) -> NDArray[np.uint8]:
    import pydicom.pixels

    values = pydicom.pixels.apply_modality_lut(frame, dataset)
    if window == "file" and ("WindowWidth" in dataset or "VOILUTSequence" in dataset):
        level = _file_window(dataset, values)
    elif isinstance(window, str):
        level = stretch(values)
    else:
        level = apply_window(values, *window)
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    return 255 - level if inverted else level


def _file_window(dataset: Any, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return grey levels by the file's own window or lookup table; its function may be sigmoid."""
    import pydicom.pixels

    if "WindowWidth" in dataset and str(dataset.get("VOILUTFunction", "LINEAR")) == "LINEAR":
        centre, width = dataset.WindowCenter, dataset.WindowWidth
        first = [
            float(value[0]) if not isinstance(value, str) and hasattr(value, "__len__") else float(value)
            for value in (centre, width)
        ]
        return apply_window(values, *first)
    shown = pydicom.pixels.apply_voi_lut(values, dataset)
    # The range of both is that of the stored bits, not of the values in the image.
    return stretch(shown, 0, float(2 ** int(dataset.BitsStored) - 1))


def library() -> Any:
    """Return the module pydicom. Raises Unsupported when it is not installed."""
    try:
        import pydicom
    except ImportError:
        raise Unsupported("DICOM files need pydicom: pip install 'regraft[medical]'", where="data.format") from None
    return pydicom
