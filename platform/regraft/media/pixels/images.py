"""Image files, opened upright in RGB or as class numbers, with limits on what is decoded."""

from __future__ import annotations

import io
import os
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from regraft.errors import DataError

MEGAPIXELS = 100
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error)
"""Errors that Pillow raises for damaged files."""
END_MARKERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""Bytes at the end of a complete file, which do not occur among its pixels."""
TAILS = (16, 1 << 16)
"""Numbers of bytes from the end in which the marker is searched: cameras append data of their own."""
WHITE_16_BITS = 65535
"""White in 16 bits."""


def seen_size(path: Any) -> tuple[int, int]:
    """Return (width, height) of the upright image: cameras store their orientation in the header, not in the pixels.

    Only the header is read, and the end of a local file. Raises DataError for a file that is no image, has more than
    MEGAPIXELS or floating-point pixels, or is truncated.
    """
    with _header(path) as image:
        _refuse_floats(image, path)
        _refuse_truncated(image, path)
        # Pillow's method for PNG decodes all pixels in search of a late chunk; the general one reads the header.
        turned = Image.Image.getexif(image).get(ORIENTATION) in SIDEWAYS
        return (image.height, image.width) if turned else (image.width, image.height)


def opened(path: Any) -> Image.Image:
    """Return the upright image in RGB: the upper 8 of 16 bits, the first frame of an animation.

    Raises DataError for a file that is truncated, no image or too large, or whose pixels are no colours.
    """
    with _header(path) as image:
        _refuse_floats(image, path)
        try:
            upright = ImageOps.exif_transpose(image)
            return (_eight_bits(upright, path) if upright.mode.startswith("I") else upright).convert("RGB")
        except UNREADABLE as error:
            raise DataError(f"image {shown(path)} is not readable: {error}") from None


def class_numbers(path: Any) -> NDArray[np.int32]:
    """Return a mask's pixels (height, width) as the file holds them; of a palette image, the indices.

    Raises DataError for a file that is truncated, no image or too large, or has several channels.
    """
    with _header(path) as image:
        if len(bands := image.getbands()) > 1 or image.mode == "F":
            message = f"mask {shown(path)} has {len(bands)} channels ({image.mode}); a mask has one, of integers"
            raise DataError(f"{message}: save it as a greyscale or palette PNG of class numbers")
        try:
            return np.asarray(ImageOps.exif_transpose(image)).astype(np.int32)
        except UNREADABLE as error:
            raise DataError(f"mask {shown(path)} is not readable: {error}") from None


def shown(path: Any) -> str:
    """Return how messages name an image: by its path, or as that of the row."""
    return str(path) if isinstance(path, str | os.PathLike) else "in this row"


def _eight_bits(image: Image.Image, path: Any) -> Image.Image:
    """Return a grey image of 16 bits, which Pillow also reads as 32, in 8: its own conversion makes all above 255
    white."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > WHITE_16_BITS:
        raise DataError(
            f"image {shown(path)} has the levels {levels.min()} to {levels.max()}; greys are 0 to 255, or to "
            f"{WHITE_16_BITS} in 16 bits: save it with these"
        )
    return Image.fromarray((levels >> 8).astype(np.uint8))


def _refuse_floats(image: Image.Image, path: Any) -> None:
    """Raise DataError for floating-point pixels, whose white is unknown: 1, 255 or a scanner's maximum."""
    if image.mode == "F":
        message = "real numbers for pixels, of which none is known to be white: save it as greys of 8 or 16 bits"
        raise DataError(f"image {shown(path)} has {message}")


def _refuse_truncated(image: Image.Image, path: Any) -> None:
    """Raise DataError for a truncated file: its header is valid, but decoding it would fail in the middle of a run.

    A file without its end marker is decoded, which is slow: other data may follow the pixels.
    """
    end = END_MARKERS.get(image.format or "")
    if end is None or not isinstance(path, str | os.PathLike):
        return
    with open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        for size in TAILS:
            file.seek(max(0, length - size))
            if end in file.read():
                return
    try:
        image.load()
    except UNREADABLE as error:
        raise DataError(f"image {shown(path)} is not readable: {error}") from None


def _header(path: Any) -> Image.Image:
    """Open an image without decoding its pixels. Raises DataError for a file that is no image, or too large."""
    name = f"image {shown(path)}"
    try:
        image = Image.open(io.BytesIO(path) if isinstance(path, bytes) else path)
    except UnidentifiedImageError:
        raise DataError(f"{name} is not readable: it is no image of a known format") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: {error}; at most {MEGAPIXELS} megapixels are allowed") from None
    except UNREADABLE as error:
        raise DataError(f"{name} is not readable: {error}") from None
    if image.width * image.height > MEGAPIXELS * 1_000_000:
        image.close()
        raise DataError(
            f"{name} has {image.width} x {image.height} pixels; at most {MEGAPIXELS} megapixels are allowed"
        )
    return image
