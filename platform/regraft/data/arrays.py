"""Reading of NumPy arrays in an archive, one row at a time, and writing of pixels as PNG files."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from regraft.media.pixels.grey_levels import stretch
from regraft.media.pixels.images import MEGAPIXELS
from regraft.media.pixels.npy_header import read_npy_header

_CHANNELS = (1, 3, 4)
_SCALE = "write which become black and white, as in data.format: {type: npz, levels: [0, 4095]}"
_BLOCK = 65535
"""Largest number of bytes in a deflate block that is not compressed."""


class BadArray(ValueError):
    """An array, or one row of it, cannot be used; the message says why."""


class ArrayReader:
    """Reads one array of an open archive: its shape, and its rows once, in order."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        """Raise BadArray for an array of Python objects, which only pickle reads, or of an unknown format."""
        self.name = name
        self._file = archive.open(f"{name}.npy")
        try:
            self.shape, self._fortran, self.dtype = read_npy_header(self._file)
        except ValueError as error:
            raise BadArray(f"array {name} is damaged: {error}") from None
        if self.dtype.hasobject or self.dtype.names:
            raise BadArray(f"array {name} holds Python objects or records, which are never read: save plain numbers")
        self.rows = self.shape[0] if self.shape else 0
        self._archive = archive

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield the rows. One of them is in memory, or the entire array if it is stored in Fortran order."""
        if self._fortran:
            with self._archive.open(f"{self.name}.npy") as file:
                yield from npy.read_array(file, allow_pickle=False)
            return
        shape = self.shape[1:]
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        for number in range(self.rows):
            content = self._file.read(size)
            if len(content) != size:
                raise BadArray(f"array {self.name} ends at row {number + 1} of {self.rows}: the file is cut short")
            yield np.frombuffer(content, self.dtype).reshape(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def plain_value(row: NDArray[Any]) -> Any:
    """Return a row of an array as a plain value, without axes of length 1, bytes as text."""
    value = row.reshape(-1)[0].item() if row.size == 1 else row.tolist()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def has_channels_first(array: ArrayReader) -> bool:
    """Return whether an array of images has its channels first. Raises BadArray when it is not an array of images."""
    shape = array.shape[1:]
    if array.dtype.kind not in "biuf" or len(shape) not in (2, 3):
        raise BadArray(
            f"array {array.name} is {array.shape} of {array.dtype}; images are numbers of "
            "(rows, height, width) or (rows, height, width, channels)"
        )
    first = len(shape) == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS
    if len(shape) == 3 and not first and shape[2] not in _CHANNELS:
        raise BadArray(f"array {array.name} is {array.shape}; images have 1, 3 or 4 channels, last or first")
    height, width = shape[1:] if first else shape[:2]
    if not 0 < height * width <= MEGAPIXELS * 1_000_000:
        raise BadArray(
            f"array {array.name} has images of {width} x {height} pixels: 1 to {MEGAPIXELS} million are read"
        )
    return first


def encode_image(
    row: NDArray[Any], channels_first: bool, *, fractions: bool, levels: tuple[float, float] | None = None
) -> bytes | BadArray:
    """Return one image as the bytes of a PNG file, or BadArray (not raised) for values that no image has.

    `fractions` allows floats of 0 to 1, which are scaled to 0 to 255; masks have integers only. `levels` are the values
    that become black and white.
    """
    pixels = np.moveaxis(row, 0, -1) if channels_first else row
    if levels is not None:
        if not np.isfinite(pixels).all():
            return BadArray("holds values that are not numbers: repair it or leave it out")
        pixels = stretch(pixels, *levels)
    elif pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8) * (255 if fractions else 1)
    elif pixels.dtype.kind == "f" and fractions:
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            return BadArray(f"holds values of {_span(pixels)}; fractions are 0 to 1: {_SCALE}")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        rounded = np.rint(pixels)
        if not (rounded == pixels).all() or rounded.min() < 0 or rounded.max() > 255:
            return BadArray(
                f"holds values of {_span(pixels)}; whole numbers of 0 to 255 are wanted"
                + (f": {_SCALE}" if fractions else "")
            )
        pixels = rounded.astype(np.uint8)
    return encode_png(pixels)


def _span(pixels: NDArray[Any]) -> str:
    return f"{pixels.min():g} to {pixels.max():g}"


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (height, width[, 1 | 3 | 4]) as a PNG file (ISO/IEC 15948), the same bytes everywhere.

    The pixels are not compressed, since the output of a compressor differs between its versions. A row with other
    bytes would be another row, which may be on the other side of the split.
    """
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    colour = {1: 0, 3: 2, 4: 6}[channels]
    lines = np.ascontiguousarray(pixels).reshape(height, width * channels)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()
    blocks = [raw[at : at + _BLOCK] for at in range(0, len(raw), _BLOCK)]
    stored = b"".join(
        struct.pack("<BHH", number == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for number, block in enumerate(blocks)
    )
    content = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
