"""Read and write depth maps: one number for each pixel, in a picture of one channel or an array file (NPY)."""

from __future__ import annotations

import base64
import io
import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from regraft.contracts.file_ref import opened
from regraft.errors import DataError
from regraft.media.pixels.images import MEGAPIXELS, UNREADABLE, image_name, opened_image
from regraft.media.pixels.mask_channels import is_jpeg
from regraft.media.pixels.npy_header import DAMAGED, LONGEST, read_npy_header

NPY = b"\x93NUMPY"
"""The first bytes of an array file."""
LEVELS = 65535
"""The highest level of a picture of 16 bits."""
ALIKE = 64
"""Levels by which two pictures of one depth may differ, a thousandth of its range: a flat one magnifies rounding."""
_ONE_CHANNEL = ("L", "I", "I;16", "I;16B", "I;16L", "F")
"""Pillow's names of pictures with one number for each pixel."""
_PNG_BEGINS = "iVBORw0KGgo"
"""The beginning of a PNG in base64."""
_STRIP = 2**16
"""Pixels that are turned into levels at a time."""


def is_npy(value: Any) -> bool:
    """Return whether a path, an open file or some bytes are an array file, by their beginning."""
    if isinstance(value, bytes):
        return value.startswith(NPY)
    if isinstance(value, io.BytesIO):
        return value.getbuffer()[: len(NPY)].tobytes() == NPY
    try:
        with open(value, "rb") as file:
            return file.read(len(NPY)) == NPY
    except (OSError, TypeError):
        return False


def npy_problem(file: Any, size: int) -> str:
    """Return why an array file of that many bytes is no depth map, as the rest of a sentence; empty where it is one.

    `file` is open at its beginning. Only the header is read.
    """
    try:
        shape, _, dtype = read_npy_header(file)
    except ValueError as error:
        return f"is an array file whose header cannot be read: {error}"
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        return f"holds values of type {dtype}; a depth map holds whole numbers or fractions"
    if len(_plane(shape)) != 2 or 0 in shape:
        return f"holds an array of shape {shape}; a depth map has (height, width)"
    if math.prod(shape) > MEGAPIXELS * 1_000_000:
        return f"has {math.prod(shape):,} pixels; at most {MEGAPIXELS} megapixels are allowed"
    if (found := size - file.tell()) < (wanted := math.prod(shape) * dtype.itemsize):
        return f"is cut short: {found:,} bytes of {wanted:,} are there"
    return ""


def stored_depths(value: Any) -> NDArray[Any]:
    """Return the numbers of a depth map (height, width) as its file holds them, upright.

    Raises DataError for a file that cannot be read, and for a picture that has no exact number for each pixel.
    """
    value, name = opened(value), image_name(value)
    if is_npy(value):
        return _npy_array(value, name)
    if is_jpeg(value):
        raise DataError(
            f"depth {name} is a JPEG, whose compression changes distances: save it as PNG of 16 bits or NPY"
        )
    with opened_image(value) as image:
        if image.mode not in _ONE_CHANNEL:
            raise DataError(
                f"depth {name} is a picture of mode {image.mode}; a depth map holds one number for each pixel: save "
                "distances as a grey PNG of 16 bits or as NPY, not a drawing of them in colours"
            )
        try:
            return np.asarray(ImageOps.exif_transpose(image))
        except UNREADABLE as error:
            raise DataError(f"depth {name} is not readable: {error}") from None


def depth_png(values: NDArray[Any]) -> tuple[str, float, float]:
    """Return a grey PNG of 16 bits in base64, with the values that its lowest and its highest level stand for."""
    rows = max(1, _STRIP // max(1, values.shape[1]))
    strips = [slice(start, start + rows) for start in range(0, len(values), rows)]  # one at a time: maps may be large
    limits = [(part.min(), part.max()) for part in (_finite(values[strip]) for strip in strips)]
    low, high = float(min(least for least, _ in limits)), float(max(most for _, most in limits))
    levels = np.zeros(values.shape, np.uint16)
    for strip in strips if high > low else ():
        levels[strip] = np.rint((_finite(values[strip]) - low) * (LEVELS / (high - low)))
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii"), low, high


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.nan_to_num(values.astype(np.float64))
    return found


def depths_of_png(coded: str, low: float, high: float) -> NDArray[np.float64]:
    """Return the values that `depth_png` wrote. Raises DataError for anything else."""
    try:
        levels = stored_depths(base64.b64decode(coded, validate=True))
    except (TypeError, ValueError):
        raise DataError("a depth map is no base64") from None
    return low + levels.astype(np.float64) * ((high - low) / LEVELS)


def same_depths(one: str, other: str) -> bool:
    """Return whether two texts are grey PNG of 16 bits in base64 whose levels differ by ALIKE at most."""
    if not (one.startswith(_PNG_BEGINS) and other.startswith(_PNG_BEGINS)):
        return False
    try:
        first, second = (stored_depths(base64.b64decode(text, validate=True)) for text in (one, other))
    except (DataError, ValueError):
        return False
    deep = first.dtype == second.dtype == np.uint16 and first.shape == second.shape
    return deep and int(np.abs(first.astype(np.int64) - second).max()) <= ALIKE


def _npy_array(value: Any, name: str) -> NDArray[Any]:
    try:
        if isinstance(value, bytes):
            return _read_npy(io.BytesIO(value), len(value), name)
        with open(value, "rb") as file:
            return _read_npy(file, os.fstat(file.fileno()).st_size, name)
    except OSError as error:
        raise DataError(f"depth {name} is not readable: {error.strerror or error}") from None


def _read_npy(file: Any, size: int, name: str) -> NDArray[Any]:
    if problem := npy_problem(file, size):
        raise DataError(f"depth {name} {problem}")
    file.seek(0)
    try:
        array = np.lib.format.read_array(file, allow_pickle=False, max_header_size=LONGEST)
    except DAMAGED as error:
        raise DataError(f"depth {name} is not readable: {error}") from None
    found: NDArray[Any] = array.reshape(_plane(array.shape))
    return found


def _plane(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without its axes of length 1, where it has more than two."""
    return tuple(side for side in shape if side != 1) if len(shape) > 2 else shape
