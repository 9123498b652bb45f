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
from regraft.data.file_kinds import leftover_kind, unread_kind
from regraft.data.folders import BROKEN_LINK
from regraft.data.metadata_table import MetadataTable
from regraft.errors import DataError, Unsupported
from regraft.media.pixels.grey_levels import apply_window, named_window, stretch

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
        window = named_window(self.window, "range")
        table = MetadataTable(Path(self.table).expanduser(), self.table_key) if self.table else None
        masks = None if self.masks is None else (path.parent / self.masks)
        if masks is not None and not masks.is_dir():
            raise DataError(f"data.format.masks names {masks}, and there is no such folder", str(path))
        if path.is_dir():
            yield from _passed_over(path)
        for file in files:
            yield from self._slices(file, masks, table, window)

    def _slices(
        self, file: Path, masks: Path | None, table: MetadataTable | None, window: str | tuple[float, float]
    ) -> Iterator[Raw]:
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
        if series := _series_of(file):
            yield Raw({}, str(file), ignored=series)
        grey = _levels(volume, window)
        for number in range(0, volume.shape[_AXES[self.axis]], self.every):
            mask = None if target is None else slice_of(target, self.axis, number)
            if mask is None or not self.labelled or mask.any():
                row = {"volume": name, "slice": number, **more, "image": encode_png(slice_of(grey, self.axis, number))}
                yield _with_mask(row, mask, f"{file}:slice {number}")


def _levels(volume: NDArray[Any], window: str | tuple[float, float]) -> NDArray[np.uint8]:
    """Return a volume's grey levels by the window."""
    if not isinstance(window, str):
        return apply_window(volume, *window)
    low, high = np.percentile(volume, [0.5, 99.5])
    return stretch(volume, float(low), float(high))


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
    if values.dtype.kind not in "iuf":
        raise DataError(f"holds values of the kind {values.dtype}; plain numbers are wanted: convert it", str(file))
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
        if entry.name.lower().endswith(_SUFFIXES) and not leftover_kind(entry.name) and entry.is_file():
            yield entry


def _passed_over(folder: Path) -> Iterator[Raw]:
    """Yield what is no volume in a folder: links that lead nowhere are bad rows, other files are counted by kind."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() and not entry.exists():
            yield Raw({}, str(entry), BROKEN_LINK)
        elif entry.is_file() and (leftover_kind(entry.name) or not entry.name.lower().endswith(_SUFFIXES)):
            yield Raw({}, str(entry), ignored=unread_kind(entry))


def _series_of(file: Path) -> str:
    """Return the kind of the volumes of a time series that are not read; empty for a single volume."""
    import nibabel

    shape = nibabel.load(file).shape
    return "later volumes of series (the first of each is read)" if int(np.prod(shape[3:], dtype=np.int64)) > 1 else ""


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")
