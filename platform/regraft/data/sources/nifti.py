"""Medical volumes as NIfTI files write them, cut into slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from regraft.contracts import Raw, Source
from regraft.data.arrays import png
from regraft.data.grey_levels import WINDOWS, Table, stretched, windowed
from regraft.errors import DataError, Unsupported

_SUFFIXES = (".nii", ".nii.gz")
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


class Nifti(Source):
    """NIfTI-1 and -2 volumes, one or a folder of them; every slice is a row. Needs the extra `medical`.

    The rows are `image`, `volume` (the file's name without its suffix), `slice` (from 0), `mask` where a folder of
    masks is named, and the columns of a `table`. Values are measured ones (the file's slope and intercept). Slices are
    turned to the radiological view: the patient's right is on the image's left, anterior or superior is up.
    `data.group: volume` keeps a volume on one side.
    """

    suffixes = _SUFFIXES
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    """Which slices are cut."""
    window: str | tuple[float, float] = "range"
    """range: the volume's 0.5th to 99.5th percentile. Or a name (abdomen, bone, brain, lung, mediastinum), or [centre,
    width] in the file's units (Hounsfield for CT)."""
    every: int = Field(1, ge=1)
    """Take every so many slices."""
    masks: str | None = None
    """Folder of volumes of class numbers, under their images' names; relative: beside the folder read."""
    labelled: bool = False
    """With masks: leave out slices whose mask is nothing but zero."""
    table: str | None = None
    """A CSV file with more columns, such as labels, a row a volume."""
    table_key: str = "volume"
    """The column of the table that holds the volumes' names."""

    def accepts(self, path: Path) -> bool:
        """A file that is named so, or a folder that holds one."""
        return super().accepts(path) or (path.is_dir() and any(_volumes(path)))

    def read(self, path: Path) -> Iterator[Raw]:
        """Rows by volume and slice; memory holds one volume. A volume that cannot be read is a bad row."""
        files = [path] if path.is_file() else list(_volumes(path))
        if not files:
            raise DataError("holds no .nii or .nii.gz file", str(path))
        table = Table(Path(self.table).expanduser(), self.table_key) if self.table else None
        masks = None if self.masks is None else (path.parent / self.masks)
        if masks is not None and not masks.is_dir():
            raise DataError(f"data.format.masks names {masks}, and there is no such folder", str(path))
        for file in files:
            yield from self._slices(file, masks, table)

    def _slices(self, file: Path, masks: Path | None, table: Table | None) -> Iterator[Raw]:
        name = _stem(file)
        more: Mapping[str, Any] = {}
        if table is not None:
            about = table.about(name)
            if about is None:
                yield Raw({"volume": name}, str(file), table.absent(name))
                return
            more = about
        try:
            volume = loaded(file)
            truth = None if masks is None else loaded(_partner(masks, name))
        except DataError as error:
            yield Raw({"volume": name}, str(file), error.message)
            return
        if truth is not None and truth.shape != volume.shape:
            told = f"its mask is {truth.shape} and itself {volume.shape}: one class number a voxel is wanted"
            yield Raw({"volume": name}, str(file), told)
            return
        grey = self._levels(volume)
        for number in range(0, volume.shape[_AXES[self.axis]], self.every):
            mask = None if truth is None else view(truth, self.axis, number)
            if mask is None or not self.labelled or mask.any():
                row = {"volume": name, "slice": number, **more, "image": png(view(grey, self.axis, number))}
                yield _with_mask(row, mask, f"{file}:slice {number}")

    def _levels(self, volume: NDArray[Any]) -> NDArray[np.uint8]:
        if not isinstance(self.window, str):
            return windowed(volume, *self.window)
        if self.window == "range":
            low, high = np.percentile(volume, [0.5, 99.5])
            return stretched(volume, float(low), float(high))
        if self.window not in WINDOWS:
            allowed = ", ".join(["range", *WINDOWS])
            raise DataError(
                f"{self.window!r} is written; allowed are {allowed}, or [centre, width]", "data.format.window"
            )
        return windowed(volume, *WINDOWS[self.window])


def loaded(file: Path) -> NDArray[Any]:
    """(right, anterior, superior) measured values of a volume; of a series over time the first. DataError says why
    not."""
    try:
        import nibabel
    except ImportError:
        raise Unsupported("NIfTI files need nibabel: pip install 'regraft[medical]'", where="data.format") from None
    try:
        image = nibabel.as_closest_canonical(nibabel.load(file))
        values: NDArray[Any] = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel, zlib and NumPy each raise their own
        raise DataError(f"is not readable as NIfTI: {type(error).__name__}: {error}", str(file)) from None
    if values.ndim < 3:
        raise DataError(f"has the shape {values.shape}; a volume has three axes", str(file))
    while values.ndim > 3:
        values = values[..., 0]
    if not np.isfinite(values).all():
        raise DataError("holds values that are no numbers: mend the volume or leave it out", str(file))
    return values


def view(volume: NDArray[Any], axis: str, number: int) -> NDArray[Any]:
    """One slice (height, width) as radiologists look at it: right on the left, anterior or superior up."""
    flat = np.take(volume, number, axis=_AXES[axis])
    return np.ascontiguousarray(flat.T[::-1, ::-1])


def _with_mask(row: dict[str, Any], mask: NDArray[Any] | None, where: str) -> Raw:
    if mask is None:
        return Raw(row, where)
    whole = np.rint(mask)
    if not (whole == mask).all() or whole.min() < 0 or whole.max() > 255:
        return Raw(row, where, f"its mask holds {mask.min():g} to {mask.max():g}; class numbers are 0 to 255")
    return Raw({**row, "mask": png(whole.astype(np.uint8))}, where)


def _partner(masks: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (found := masks / f"{name}{suffix}").is_file():
            return found
    raise DataError(f"{masks} holds no mask {name}.nii or {name}.nii.gz: add it, or leave the volume out")


def _volumes(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.lower().endswith(_SUFFIXES) and not entry.name.startswith(".") and entry.is_file():
            yield entry


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")
