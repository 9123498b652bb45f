"""How is an image file opened? As it is meant to be seen, in RGB or as numbers, never too large to decode safely."""

from __future__ import annotations

import io
import os
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from regraft.errors import DataError

MEGAPIXELS = 100
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error)
"""What Pillow raises for damaged files."""


def seen_size(path: Any) -> tuple[int, int]:
    """(width, height) as the image is seen: a camera held sideways writes that into the header, not the pixels.

    Only the header is read. DataError when the file is no image, or one of more than MEGAPIXELS.
    """
    with _header(path) as image:
        # Pillow's method for PNG decodes the whole image in search of a late chunk; the general one reads the header.
        turned = Image.Image.getexif(image).get(ORIENTATION) in SIDEWAYS
        return (image.height, image.width) if turned else (image.width, image.height)


def opened(path: Any) -> Image.Image:
    """The image as it is seen, RGB; DataError names a file that is cut short, no image or too large."""
    with _header(path) as image:
        try:
            return ImageOps.exif_transpose(image).convert("RGB")
        except UNREADABLE as error:
            raise DataError(f"image {path} is not readable: {error}") from None


def class_numbers(path: Any) -> NDArray[np.int32]:
    """A mask's pixels (height, width) as the file holds them: numbers, of a palette the places and not the colours.

    DataError names a file that is cut short, no image, too large, or one of several channels.
    """
    with _header(path) as image:
        if len(bands := image.getbands()) > 1 or image.mode == "F":
            told = f"mask {shown(path)} has {len(bands)} channels ({image.mode}); a mask has one, of whole numbers"
            raise DataError(f"{told}: save it as a greyscale or palette PNG of class numbers")
        try:
            return np.asarray(ImageOps.exif_transpose(image)).astype(np.int32)
        except UNREADABLE as error:
            raise DataError(f"mask {shown(path)} is not readable: {error}") from None


def shown(path: Any) -> str:
    """What messages call an image: its path, or that it lies in the row itself."""
    return str(path) if isinstance(path, str | os.PathLike) else "in this row"


def _header(path: Any) -> Image.Image:
    """An image whose pixels are not decoded yet; DataError when it is none, or too large to decode safely."""
    path = io.BytesIO(path) if isinstance(path, bytes) else path
    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise DataError(f"image {path}: {error}; at most {MEGAPIXELS} megapixels are allowed") from None
    except UNREADABLE as error:
        raise DataError(f"image {path} is not readable: {error}") from None
    if image.width * image.height > MEGAPIXELS * 1_000_000:
        image.close()
        raise DataError(
            f"image {path} has {image.width} x {image.height} pixels; at most {MEGAPIXELS} megapixels are allowed"
        )
    return image
