"""Pixels of DICOM files: stored values become measured ones, then grey levels or colours as a viewer shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import Unsupported
from regraft.lazy import Later
from regraft.media.pixels.grey_levels import apply_window, stretch

special = Later("scipy.special")

_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Kinds of colours that pydicom's decoders return as RGB."""
_NO_PICTURES = {
    "1.2.840.10008.1.3.10": "which are indexes of folders",
    "1.2.840.10008.5.1.4.1.1.66.4": "which are masks",
    "1.2.840.10008.5.1.4.1.1.66.7": "which are masks",
    "1.2.840.10008.5.1.4.1.1.481.2": "which hold doses",
    "1.2.840.10008.5.1.4.1.1.30": "which hold measurements",
}
"""Classes of objects whose frames, if any, are no pictures (PS3.4, B.5)."""
_FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""Groups of a frame that say how its values are shown."""


@dataclass(frozen=True)
class DicomFrame:
    """One frame as pixels, (height, width) of grey levels or (height, width, 3) in colour."""

    pixels: NDArray[np.uint8]
    doubt: str = ""
    """The kind of what had to be passed over to show it, as a plural noun phrase."""


def library() -> Any:
    """Return the module pydicom. Raises Unsupported when it is not installed."""
    try:
        import pydicom
    except ImportError:
        raise Unsupported("DICOM files need pydicom: pip install 'regraft[medical]'", where="data.format") from None
    return pydicom


def read_dataset(file: Any) -> Any:
    """Read a DICOM file, also one without the preamble that the standard demands, as old scanners wrote it."""
    pydicom = library()
    try:
        dataset = pydicom.dcmread(file)
    except pydicom.errors.InvalidDicomError:
        dataset = pydicom.dcmread(file, force=True)
        if "SOPClassUID" not in dataset and "PixelData" not in dataset:
            raise ValueError("it has neither DICOM's magic number nor its elements") from None
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
    return dataset


def not_a_picture(dataset: Any) -> str:
    """Return the kind of a data set that holds no picture (reports, indexes, masks), or an empty text."""
    kind = str(dataset.get("SOPClassUID", "") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    name = library().uid.UID(kind).name if kind else "no class"
    if kind in _NO_PICTURES:
        return f"DICOM files of {name}, {_NO_PICTURES[kind]}"
    has_pixels = any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))
    return "" if has_pixels or "Image" in name else f"DICOM files without pixels ({name})"


def frames_of(dataset: Any, window: str | tuple[float, float]) -> list[DicomFrame]:
    """Return every frame of a data set. Raises ValueError for what cannot be shown.

    `window` is `file`, `full`, or centre and width.
    """
    kind = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if kind not in (*_GREY, *_COLOURS, _PALETTE):
        raise ValueError(f"its colours are of the kind {kind}, which is not read: convert it to RGB or MONOCHROME2")
    array: NDArray[Any] = dataset.pixel_array
    colour = int(dataset.get("SamplesPerPixel", 1)) > 1
    frames = array if array.ndim == (4 if colour else 3) else array[None]
    if colour:
        bits = int(dataset.BitsStored)
        return [DicomFrame(_eight_bits(frame, bits)) for frame in frames]
    if kind == _PALETTE:
        return [_by_palette(dataset, frame) for frame in frames]
    return [_grey(_of_frame(dataset, number), frame, window) for number, frame in enumerate(frames)]


def _eight_bits(colours: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return colours (height, width, channels) of that many bits as 8 bits."""
    if bits == 8 and colours.dtype == np.uint8:
        return np.ascontiguousarray(colours[..., :3])
    return np.ascontiguousarray(stretch(colours[..., :3], 0, 2**bits - 1))


def _by_palette(dataset: Any, frame: NDArray[Any]) -> DicomFrame:
    import pydicom.pixels

    colours = pydicom.pixels.apply_color_lut(frame, dataset)
    bits = 8 * colours.dtype.itemsize
    if bits == 16 and colours.max() < 256:  # entries of 8 bits that are stored in 16
        bits = 8
    return DicomFrame(_eight_bits(colours, bits))


def _of_frame(dataset: Any, number: int) -> Any:
    """Return the data set with the window and the scale of one frame, which enhanced objects keep in groups."""
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])[number : number + 1]
    groups = [item for group in (*shared, *frames) for name in _FRAME_GROUPS for item in group.get(name) or []]
    if not groups:
        return dataset
    shown = library().Dataset()
    shown.update({element.tag: element for element in dataset if element.tag.group == 0x28})
    for group in groups:
        shown.update(group)
    return shown


def _grey(dataset: Any, frame: NDArray[Any], window: str | tuple[float, float]) -> DicomFrame:
    import pydicom.pixels

    if dataset.get("RescaleSlope") == 0:
        raise ValueError("its rescale slope is 0, which makes all values equal: repair or remove it")
    values: NDArray[Any] = pydicom.pixels.apply_modality_lut(frame, dataset)
    padding = _padding(dataset, frame)
    doubt = ""
    if window == "file":
        level, doubt = _as_the_file_says(dataset, values, padding)
    elif isinstance(window, str):
        level = _full_range(values, padding)
    else:
        level = apply_window(values, *window)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        level = 255 - level
    return DicomFrame(np.where(padding, np.uint8(0), level), doubt)


def _padding(dataset: Any, frame: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels are outside of what was measured (PS3.3, C.7.5.1.1.2), by stored values."""
    limits = [_signed(dataset, dataset.get(key)) for key in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    first, last = limits[0], limits[0] if limits[1] is None else limits[1]
    if first is None or last is None:
        return np.zeros(frame.shape, np.bool_)
    return np.asarray((frame >= min(first, last)) & (frame <= max(first, last)))


def _signed(dataset: Any, value: Any) -> int | None:
    """Return a padding value; many scanners write that of signed pixels without its sign."""
    if value is None or value == "":
        return None
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
    largest = 1 << (int(dataset.BitsAllocated) - 1)
    return number - 2 * largest if int(dataset.PixelRepresentation) == 1 and number >= largest else number


def _full_range(values: NDArray[Any], padding: NDArray[np.bool_]) -> NDArray[np.uint8]:
    measured = values[~padding]
    return stretch(values, measured.min(), measured.max()) if measured.size else np.zeros(values.shape, np.uint8)


def _as_the_file_says(dataset: Any, values: NDArray[Any], padding: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], str]:
    """Return grey levels by the file's first usable window or its lookup table, else its full range; and a doubt."""
    function = str(dataset.get("VOILUTFunction", "") or "LINEAR")
    windows = list(_windows(dataset))
    usable = [(centre, width) for centre, width in windows if width >= (1 if function == "LINEAR" else 1e-9)]
    if "VOILUTSequence" in dataset and (function != "LINEAR" or not usable):
        return _by_table(dataset, values), ""
    if usable:
        return _by_function(function, values, *usable[0]), ""
    doubt = "windows without a width (the full range of values is used)" if windows else ""
    return _full_range(values, padding), doubt


def _by_function(function: str, values: NDArray[Any], centre: float, width: float) -> NDArray[np.uint8]:
    """Return grey levels by a window function (PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if function == "LINEAR_EXACT":
        return stretch(values, centre - width / 2, centre + width / 2)
    if function == "SIGMOID":
        return stretch(special.expit(4 * (values.astype(np.float64) - centre) / width), 0, 1)
    return apply_window(values, centre, width)


def _by_table(dataset: Any, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return grey levels by the file's lookup table (PS3.3, C.11.2.1.1)."""
    import pydicom.pixels

    shown = pydicom.pixels.apply_voi(values, dataset)
    table = dataset.VOILUTSequence[0]
    white = 2 ** int(table.LUTDescriptor[2]) - 1
    stored = 2 ** int(dataset.BitsStored) - 1
    # Some scanners write 16 for the bits of a table whose entries have those of the pixels.
    return stretch(shown, 0, min(white, stored) if shown.max() <= stored else white)


def _windows(dataset: Any) -> Iterator[tuple[float, float]]:
    """Yield centre and width of the windows that a file names; those without numbers have the width 0."""
    found = [dataset.get(name) for name in ("WindowCenter", "WindowWidth")]
    centres, widths = ([value] if not _is_list(value) else list(value) for value in found)
    for centre, width in zip(centres, widths, strict=False):
        if centre not in (None, "") or width not in (None, ""):
            try:
                yield float(centre), float(width)
            except (TypeError, ValueError):
                yield 0.0, 0.0


def _is_list(value: Any) -> bool:
    return not isinstance(value, str) and hasattr(value, "__len__")
