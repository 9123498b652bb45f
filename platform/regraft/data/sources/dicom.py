"""Medical images as DICOM files write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Raw, Source
from regraft.data.arrays import png
from regraft.data.folders import SCANS, scans_in
from regraft.data.grey_levels import WINDOWS, Table, stretched, windowed
from regraft.errors import DataError, Unsupported

_SAID = {
    "patient_id": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance": "SOPInstanceUID",
    "modality": "Modality",
    "view": "ViewPosition",
}


class Dicom(Source):
    """DICOM files (PS3.10), one or a folder of them at any depth; every frame is a row. Needs the extra `medical`.

    The rows are `image`, and what the file says of itself: `patient_id`, `study`, `series`, `instance`, `modality`,
    `view`, `frame`; `label` is the name of the folder that a file lies in; a `table` adds its own columns. Stored
    values become measured ones (rescale slope and intercept, or the file's own table), then grey levels by the window;
    MONOCHROME1 is inverted, so that bright is always dense. `data.group: patient_id` keeps a patient on one side.
    """

    suffixes = SCANS
    window: Literal["file", "full"] | str | tuple[float, float] = "file"
    """file: the first window that the file names, else its whole range. full: always its whole range. Or a name
    (abdomen, bone, brain, lung, mediastinum), or [centre, width] in the file's units (Hounsfield for CT)."""
    table: str | None = None
    """A CSV file with more columns, such as labels; a row of it belongs to the file that `table_key` names."""
    table_key: str = "file"
    """The column of the table that is compared: `file` holds file names, any other (`patient_id`, `study`, ...) what
    the files say under that name."""

    def accepts(self, path: Path) -> bool:
        """A file that is named so, or a folder that holds one, directly or in the folders inside of it."""
        return super().accepts(path) or (path.is_dir() and any(scans_in(path, depth=2)))

    def read(self, path: Path) -> Iterator[Raw]:
        """Rows by path and frame; a file that is no DICOM, or cannot be decoded, is a bad row."""
        library()
        window = self._window()
        table = Table(Path(self.table).expanduser(), self.table_key) if self.table else None
        if path.is_file():
            yield from self._frames(path, {}, window, table)
            return
        found = list(scans_in(path))
        if not found:
            raise DataError("holds no DICOM file", str(path))
        for file in found:
            label = {"label": file.parent.name} if file.parent != path else {}
            yield from self._frames(file, label, window, table)

    def _window(self) -> str | tuple[float, float]:
        if not isinstance(self.window, str) or self.window in ("file", "full"):
            return self.window
        if self.window not in WINDOWS:
            allowed = ", ".join(["file", "full", *WINDOWS])
            raise DataError(
                f"{self.window!r} is written; allowed are {allowed}, or [centre, width]", "data.format.window"
            )
        return WINDOWS[self.window]

    def _frames(
        self, file: Path, values: Mapping[str, Any], window: str | tuple[float, float], table: Table | None
    ) -> Iterator[Raw]:
        try:
            dataset = library().dcmread(file)
            said = {name: str(dataset.get(keyword, "")) for name, keyword in _SAID.items()}
            frames = pixels_of(dataset, window)
        except Exception as error:  # what a damaged file makes the decoder raise has no common class
            yield Raw(dict(values), str(file), f"is not readable as DICOM: {type(error).__name__}: {error}")
            return
        more: Mapping[str, Any] = {}
        if table is not None:
            name = file.name if self.table_key == "file" else said.get(self.table_key, "")
            about = table.about(name)
            if about is None:
                yield Raw(dict(values), str(file), table.absent(name))
                return
            more = about
        for number, frame in enumerate(frames, 1):
            where = f"{file}:frame {number}" if len(frames) > 1 else str(file)
            yield Raw({**said, **values, "frame": number, **more, "image": png(frame)}, where)


def pixels_of(dataset: Any, window: str | tuple[float, float]) -> list[NDArray[np.uint8]]:
    """Every frame of a data set as (height, width) grey levels, or (height, width, 3) where it is in colour."""
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
        level = _as_the_file_says(dataset, values)
    elif isinstance(window, str):
        level = stretched(values)
    else:
        level = windowed(values, *window)
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    return 255 - level if inverted else level


def _as_the_file_says(dataset: Any, values: NDArray[Any]) -> NDArray[np.uint8]:
    """The window, or the table, that the file itself names; its function may be sigmoid."""
    import pydicom.pixels

    if "WindowWidth" in dataset and str(dataset.get("VOILUTFunction", "LINEAR")) == "LINEAR":
        centre, width = dataset.WindowCenter, dataset.WindowWidth
        first = [
            float(value[0]) if not isinstance(value, str) and hasattr(value, "__len__") else float(value)
            for value in (centre, width)
        ]
        return windowed(values, *first)
    shown = pydicom.pixels.apply_voi_lut(values, dataset)
    # Both spread over the range of the stored bits, whatever values an image happens to hold.
    return stretched(shown, 0, float(2 ** int(dataset.BitsStored) - 1))


def library() -> Any:
    """pydicom; Unsupported says how to get it."""
    try:
        import pydicom
    except ImportError:
        raise Unsupported("DICOM files need pydicom: pip install 'regraft[medical]'", where="data.format") from None
    return pydicom
