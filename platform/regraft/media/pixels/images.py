"""How is an image file opened? As it is meant to be seen, in RGB or as numbers, never too large to decode safely."""

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
"""What Pillow raises for damaged files."""
ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""What stands at the end of a whole file, and nowhere among its pixels."""
TAILS = (16, 1 << 16)
"""Bytes from the end in which that is looked for: cameras write a little of their own behind it."""
DEEP = 65535
"""The white of 16 bits."""


def seen_size(path: Any) -> tuple[int, int]:
    """(width, height) as the image is seen: a camera held sideways writes that into the header, not the pixels.

    Only the header is read, and of a local file the end. DataError when the file is no image, one of more than
    MEGAPIXELS, of real numbers, or cut short.
    """
    with _header(path) as image:
        _refuse_reals(image, path)
        _refuse_cut(image, path)
        # Pillow's method for PNG decodes the whole image in search of a late chunk; the general one reads the header.
        turned = Image.Image.getexif(image).get(ORIENTATION) in SIDEWAYS
        return (image.height, image.width) if turned else (image.width, image.height)


def opened(path: Any) -> Image.Image:
    """The image as it is seen, RGB; of 16 bits the upper 8; of an animation the first picture.

    DataError names a file that is cut short, no image, too large, or of numbers that are no colours.
    """
    with _header(path) as image:
        _refuse_reals(image, path)
        try:
            upright = ImageOps.exif_transpose(image)
            return (_eight_bits(upright, path) if upright.mode.startswith("I") else upright).convert("RGB")
        except UNREADABLE as error:
            raise DataError(f"image {shown(path)} is not readable: {error}") from None


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


def _eight_bits(image: Image.Image, path: Any) -> Image.Image:
    """Greys of 16 bits, which Pillow also reads as 32, in 8: its own conversion makes all above 255 white."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > DEEP:
        told = f"{levels.min()} to {levels.max()}; greys are 0 to 255, or to {DEEP} in 16 bits: save it with these"
        raise DataError(f"image {shown(path)} has the levels {told}")
    return Image.fromarray((levels >> 8).astype(np.uint8))


def _refuse_reals(image: Image.Image, path: Any) -> None:
    """Nothing says which real number is white: 1, 255 or what a scanner measured."""
    if image.mode == "F":
        told = "real numbers for pixels, of which none is known to be white: save it as greys of 8 or 16 bits"
        raise DataError(f"image {shown(path)} has {told}")


def _refuse_cut(image: Image.Image, path: Any) -> None:
    """Half-copied files have a good header, and would end a run when their turn comes. Where a file does not end as it
    should its pixels are decoded, which is slow: something else may stand behind them."""
    end = ENDS.get(image.format or "")
    if end is None or not isinstance(path, str | os.PathLike):
        return
    with open(path, "rb") as file:
        whole = file.seek(0, os.SEEK_END)
        for size in TAILS:
            file.seek(max(0, whole - size))
            if end in file.read():
                return
    try:
        image.load()
    except UNREADABLE as error:
        raise DataError(f"image {shown(path)} is not readable: {error}") from None


def _header(path: Any) -> Image.Image:
    """An image whose pixels are not decoded yet; DataError when it is none, or too large to decode safely."""
    told = f"image {shown(path)}"
    try:
        image = Image.open(io.BytesIO(path) if isinstance(path, bytes) else path)
    except UnidentifiedImageError:
        raise DataError(f"{told} is not readable: it is no image of a known format") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{told}: {error}; at most {MEGAPIXELS} megapixels are allowed") from None
    except UNREADABLE as error:
        raise DataError(f"{told} is not readable: {error}") from None
    if image.width * image.height > MEGAPIXELS * 1_000_000:
        image.close()
        raise DataError(
            f"{told} has {image.width} x {image.height} pixels; at most {MEGAPIXELS} megapixels are allowed"
        )
    return image
