"""Decode image files: photos as upright RGB, masks as class numbers. Limits of size and format apply."""

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
"""The EXIF tag of the camera's orientation."""
ROTATED = (5, 6, 7, 8)
"""Values of that tag for images stored with width and height exchanged."""
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error)
"""Errors that Pillow raises for damaged files."""
END_MARKERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""Bytes at the end of a complete file, which do not occur among its pixels."""
TAIL_SIZES = (16, 1 << 16)
"""Bytes at the end that are searched for the marker: first few, then more, as cameras append their own data."""
WHITE_16_BITS = 65535
"""White in 16 bits."""


def upright_size(path: Any) -> tuple[int, int]:
    """Return the (width, height) of the upright image, with the header's orientation applied.

    Only the header is read, and the end of a local file. Raises DataError for a file that is not an image, is
    truncated, is larger than MEGAPIXELS, or has floating-point pixels.
    """
    with _header(path) as image:
        _refuse_floats(image, path)
        _refuse_truncated(image, path)
        # Pillow's method for PNG decodes all pixels in search of a late chunk; the general one reads the header.
        rotated = Image.Image.getexif(image).get(ORIENTATION) in ROTATED
        return (image.height, image.width) if rotated else (image.width, image.height)


def open_rgb(path: Any) -> Image.Image:
    """Return the upright image in RGB. 16-bit greys keep their upper 8 bits, animations their first frame.

    Raises DataError for a file that is not an image, is truncated or too large, or has floating-point pixels.
    """
    with _header(path) as image:
        _refuse_floats(image, path)
        try:
            upright = ImageOps.exif_transpose(image)
            return (_eight_bits(upright, path) if upright.mode.startswith("I") else upright).convert("RGB")
        except UNREADABLE as error:
            raise DataError(f"image {image_name(path)} is not readable: {error}") from None


def class_numbers(path: Any) -> NDArray[np.int32]:
    """Return a mask's pixel values (height, width), unconverted; for a palette image, the indices.

    Raises DataError for a file that is not an image, is truncated or too large, or has several channels.
    """
    with _header(path) as image:
        if len(bands := image.getbands()) > 1 or image.mode == "F":
            message = f"mask {image_name(path)} has {len(bands)} channels ({image.mode}); a mask has one, of integers"
            raise DataError(f"{message}: save it as a greyscale or palette PNG of class numbers")
        try:
            return np.asarray(ImageOps.exif_transpose(image)).astype(np.int32)
        except UNREADABLE as error:
            raise DataError(f"mask {image_name(path)} is not readable: {error}") from None


def image_name(path: Any) -> str:
    """Return an image's name in messages: its path, or `in this row` for bytes."""
    return str(path) if isinstance(path, str | os.PathLike) else "in this row"


def _eight_bits(image: Image.Image, path: Any) -> Image.Image:
    """Convert a 16-bit grey image to 8 bits; Pillow may have read it as 32 bits.

    Pillow's own conversion would make every level above 255 white.
    """
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > WHITE_16_BITS:
        raise DataError(
            f"image {image_name(path)} has grey levels {levels.min()} to {levels.max()}; allowed are 0 to 255, or 0 to "
            f"{WHITE_16_BITS} in 16 bits: save it in that range"
        )
    return Image.fromarray((levels >> 8).astype(np.uint8))


def _refuse_floats(image: Image.Image, path: Any) -> None:
    """Raise DataError for floating-point pixels: white could be 1, 255 or a scanner's maximum."""
    if image.mode == "F":
        message = "floating-point pixels, whose value for white is not known: save it as greys of 8 or 16 bits"
        raise DataError(f"image {image_name(path)} has {message}")


def _refuse_truncated(image: Image.Image, path: Any) -> None:
    """Raise DataError for a truncated file: its header is valid, but decoding would fail in the middle of a run.

    If no end marker is found, the file is decoded, which is slow: other data may follow the pixels.
    """
    end = END_MARKERS.get(image.format or "")
    if end is None or not isinstance(path, str | os.PathLike):
        return
    with open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        for size in TAIL_SIZES:
            file.seek(max(0, length - size))
            if end in file.read():
                return
    try:
        image.load()
    except UNREADABLE as error:
        raise DataError(f"image {image_name(path)} is not readable: {error}") from None


def _header(path: Any) -> Image.Image:
    """Open an image without decoding its pixels. Raises DataError for a file that is not an image, or too large."""
    name = f"image {image_name(path)}"
    try:
        image = Image.open(io.BytesIO(path) if isinstance(path, bytes) else path)
    except UnidentifiedImageError:
        raise DataError(f"{name} is not readable: it is not an image of a known format") from None
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
