"""Source of NIfTI files: medical volumes, cut into slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from regraft.contracts import Raw, Source
from regraft.data.arrays import encode_png
from regraft.data.grey_levels import WINDOWS, apply_window, stretch
from regraft.data.metadata_table import MetadataTable
from regraft.errors import DataError, Unsupported

_SUFFIXES = (".nii", ".nii.gz")
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


class Nifti(Source):
    """NIfTI-1 and -2 volumes, one or a folder of them; every slice is a row. Needs the extra `medical`.

    The columns are `image`, `volume` (the file's name without its suffix), `slice` (from 0), `mask` if a folder of
    masks is named, and those of a `table`. Values are measured ones (by the file's slope and intercept). Slices have
    the radiological orientation: the patient's right is on the image's left, anterior or superior is up.
    `data.group: volume` keeps a volume on one side.
    """

    suffixes = _SUFFIXES
    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    """Direction of the slices."""
    window: str | tuple[float, float] = "range"
    """range: the volume's 0.5th to 99.5th percentile. Or a name (abdomen, bone, brain, lung, mediastinum), or [centre,
    width] in the file's units (Hounsfield for CT)."""
    every: int = Field(1, ge=1)
    """Step between the slices that are read."""
    masks: str | None = None
    """Folder of volumes of class numbers with their images' names; a relative path begins beside the folder read."""
    labelled: bool = False
    """With masks: leave out slices whose mask is zero everywhere."""
    table: str | None = None
    """A CSV file with more columns, such as labels, and a row for each volume."""
    table_key: str = "volume"
    """The column of the table that holds the volumes' names."""

    def accepts(self, path: Path) -> bool:
        """Accept a file with such a suffix, and a folder that contains one."""
        return super().accepts(path) or (path.is_dir() and any(_volumes(path)))

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by volume and slice, with one volume in memory. A volume that cannot be read is a bad row."""
        files = [path] if path.is_file() else list(_volumes(path))
        if not files:
            raise DataError("holds no .nii or .nii.gz file", str(path))
        table = MetadataTable(Path(self.table).expanduser(), self.table_key) if self.table else None
        masks = None if self.masks is None else (path.parent / self.masks)
        if masks is not None and not masks.is_dir():
            raise DataError(f"data.format.masks names {masks}, and there is no such folder", str(path))
        for file in files:
            yield from self._slices(file, masks, table)

    def _slices(self, file: Path, masks: Path | None, table: MetadataTable | None) -> Iterator[Raw]:
        name = _stem(file)
        more: Mapping[str, Any] = {}
        if table is not None:
            entry = table.find(name)
            if entry is None:
                yield Raw({"volume": name}, str(file), table.missing_message(name))
                return
            more = entry
        try:
            volume = load_volume(file)
            target = None if masks is None else load_volume(_mask_file(masks, name))
        except DataError as error:
            yield Raw({"volume": name}, str(file), error.message)
            return
        if target is not None and target.shape != volume.shape:
            problem = f"its mask is {target.shape} and itself {volume.shape}: one class number a voxel is wanted"
            yield Raw({"volume": name}, str(file), problem)
            return
        grey = self._levels(volume)
        for number in range(0, volume.shape[_AXES[self.axis]], self.every):
            mask = None if target is None else slice_of(target, self.axis, number)
            if mask is None or not self.labelled or mask.any():
                row = {"volume": name, "slice": number, **more, "image": encode_png(slice_of(grey, self.axis, number))}
                yield _with_mask(row, mask, f"{file}:slice {number}")

    def _levels(self, volume: NDArray[Any]) -> NDArray[np.uint8]:
        """Return a volume's grey levels by the window."""
        if not isinstance(self.window, str):
            return apply_window(volume, *self.window)
        if self.window == "range":
            low, high = np.percentile(volume, [0.5, 99.5])
            return stretch(volume, float(low), float(high))
        if self.window not in WINDOWS:
            allowed = ", ".join(["range", *WINDOWS])
            raise DataError(
                f"{self.window!r} is written; allowed are {allowed}, or [centre, width]", "data.format.window"
            )
        return apply_window(volume, *WINDOWS[self.window])


def load_volume(file: Path) -> NDArray[Any]:
    """Return the measured values of a volume, (right, anterior, superior); of a time series, those of the first.

    Raises DataError when the file cannot be read, and Unsupported when nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise Unsupported("NIfTI files need nibabel: pip install 'regraft[medical]'", where="data.format") from None
    try:
        image = nibabel.as_closest_canonical(nibabel.load(file))
        values: NDArray[Any] = np.asanyarray(image.dataobj)
    except Exception as error:  # the errors of nibabel, zlib and NumPy have no common class
        raise DataError(f"is not readable as NIfTI: {type(error).__name__}: {error}", str(file)) from None
    if values.ndim < 3:
        raise DataError(f"has the shape {values.shape}; a volume has three axes", str(file))
    while values.ndim > 3:
        values = values[..., 0]
    if not np.isfinite(values).all():
        raise DataError("holds values that are not numbers: repair the volume or leave it out", str(file))
    return values


def slice_of(volume: NDArray[Any], axis: str, number: int) -> NDArray[Any]:
    """Return one slice, (height, width), in radiological orientation: right on the left, anterior or superior up."""
    flat = np.take(volume, number, axis=_AXES[axis])
    return np.ascontiguousarray(flat.T[::-1, ::-1])


def _with_mask(row: dict[str, Any], mask: NDArray[Any] | None, where: str) -> Raw:
    if mask is None:
        return Raw(row, where)
    rounded = np.rint(mask)
    if not (rounded == mask).all() or rounded.min() < 0 or rounded.max() > 255:
        return Raw(row, where, f"its mask holds {mask.min():g} to {mask.max():g}; class numbers are 0 to 255")
    return Raw({**row, "mask": encode_png(rounded.astype(np.uint8))}, where)


def _mask_file(masks: Path, name: str) -> Path:
    """Return the volume of that name in the folder of masks. Raises DataError when it is missing."""
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
