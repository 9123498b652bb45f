"""Decode image files: photos as upright RGB, masks as class numbers. Limits of size and format apply."""

from __future__ import annotations

import io
import os
import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from regraft.contracts.file_ref import FileBytes, FileRef, UndecodedFile, opened
from regraft.contracts.remark import Measured
from regraft.errors import DataError
from regraft.media.pixels.cost import refuse_shape, refuse_structure
from regraft.media.pixels.grey_levels import stretch
from regraft.media.pixels.mask_channels import Colours, channel_numbers

# Sizes are checked here, and notes about unusual metadata say nothing about the pixels. Set once: filters that a thread
# sets for a while are those of all threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

MEGAPIXELS = 100
ORIENTATION = 0x0112
"""The EXIF tag of the camera's orientation."""
ROTATED = (5, 6, 7, 8)
"""Values of that tag for images stored with width and height exchanged."""
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, RuntimeError, OverflowError)
"""Errors that Pillow raises for damaged files."""
END_MARKERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""Bytes at the end of a complete file, which do not occur among its pixels."""
FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "CUR", "ICNS"),
    *("PSD", "QOI", "DDS", "PCX", "DCX", "SGI", "SUN", "XBM", "XPM", "IM", "MSP", "FITS", "FLI", "BLP", "GBR"),
    *("FTEX", "PIXAR", "PCD", "TGA"),
)
"""Formats that are read. Of the others that Pillow knows, some are programs that another program would run (EPS)."""
REQUEST_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Formats that a request may hold."""
SIZED_INSIDE = ("ICO", "ICNS", "CUR")
"""Formats with an image inside, whose size their header may state wrongly."""
TAIL_SIZES = (16, 1 << 16)
"""Bytes at the end that are searched for the marker: first few, then more, as cameras append their own data."""
_MARK = 16
"""Bytes by which formats are recognized."""
WHITE_16_BITS = 65535
"""White in 16 bits."""
FEW_GREYS = 1 << 14
"""Greys of 16 bits that are all below this level become less than 64 of the 256 greys."""
DARK_COLOUR = 64
"""Colours of 16 bits that are all below this level of 8 bits are probably of 12 bits or fewer."""
_FEW_GREYS = (
    "images of 16 bits use levels up to {} of 65535, so that few of 256 greys are left: write the levels of black and "
    "white in task.levels, such as [0, {}]"
)
_DARK_COLOURS = (
    "colours of 16 bits use levels up to {} of 255 once they have 8 bits, and are nearly black: save the images in 8 "
    "bits, as bright as they are to be seen"
)
ANIMATED = ("TIFF", "GIF", "PNG", "WEBP", "AVIF", "DCX", "FLI")
"""Formats with several frames or pages."""
_SEVERAL = "images have several frames or pages, of which the first is used"
PHOTOMETRIC = 262
"""The TIFF tag that says whether 0 is black or white."""

Levels = tuple[float, float]
"""The levels of black and of white."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's header shows, and the end of a local file."""

    size: tuple[int, int]
    """(width, height) of the upright image."""
    mode: str
    """Pillow's name of the kind of pixels."""
    deep_colours: bool
    """Whether colours have 16 bits, of which Pillow keeps the upper 8."""
    several: bool
    """Whether other frames or pages follow the first."""
    orientation: int
    """How EXIF says to turn the stored pixels: 1 to 8, 1 for not at all."""


def read_header(path: Any) -> Header:
    """Return what an image's header shows. Raises DataError as `upright_size` does.

    The last results for local files are remembered: checks of a row ask several times.
    """
    if not isinstance(path, str | os.PathLike):
        return _read_header(path)
    try:
        state = os.stat(path)
    except OSError as error:
        raise DataError(f"image {image_name(path)} is not readable: {error}") from None
    return _remembered_header(os.fspath(path), (state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_size))


def upright_size(path: Any) -> tuple[int, int]:
    """Return the (width, height) of the upright image, with the header's orientation applied.

    Only the header is read, and the end of a local file. Raises DataError for a file that is not an image, is
    truncated, or is larger than MEGAPIXELS.
    """
    return read_header(path).size


def checked_size(path: Any, levels: Levels | None) -> tuple[int, int]:
    """Return `upright_size`. Raises DataError also for an image that `open_rgb` refuses for its levels.

    Greys of 32 bits and floating-point pixels are decoded for that, no others.
    """
    header = read_header(path)
    if header.mode not in ("I", "F"):
        return header.size
    with opened_image(path) as image:
        _refuse_floats(image, path, levels)
        try:
            _eight_bits(image, path, levels)
        except UNREADABLE as error:
            if not isinstance(path, bytes):  # they may be the beginning of a file in S3
                raise DataError(f"image {image_name(path)} is not readable: {error}") from None
    return header.size


def open_rgb(path: Any, levels: Levels | None = None) -> Image.Image:
    """Return the upright image in RGB; of an animation, its first frame.

    `levels` are those of black and white in greys of 16 bits and more, and in floating-point pixels. Without them,
    greys of 16 bits keep their upper 8 bits. Raises DataError for a file that is not an image, is truncated or too
    large, or has pixels whose white is not known.
    """
    path = opened(path)
    with opened_image(path) as image:
        _refuse_floats(image, path, levels)
        try:
            negative = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
            ImageOps.exif_transpose(image, in_place=True)  # no copy of one that is upright
            if image.mode == "RGB" and image.format in ("JPEG", "PNG"):  # others keep more than their pixels
                return image
            if not is_deep(image.mode):
                return image.convert("RGB")
            grey = _eight_bits(image, path, levels)
            return (ImageOps.invert(grey) if negative else grey).convert("RGB")
        except UNREADABLE as error:
            raise DataError(f"image {image_name(path)} is not readable: {error}") from None


def with_levels(path: Any, levels: Levels) -> Any:
    """Return a deep image as the bytes of one of 8 bits; any other, and one that cannot be read, as it is."""
    try:
        if not is_deep(read_header(path).mode):
            return path
        file = io.BytesIO()
        open_rgb(path, levels).save(file, "PNG")
    except DataError:
        return path
    return file.getvalue()


def depth_remark(path: Any, levels: Levels | None) -> str | None:
    """Return a remark about an image of more than 8 bits, with the highest level in it; None for another.

    Of images of 8 bits only the header is read, others are decoded.
    """
    try:
        header = read_header(path)
        if not header.deep_colours and (levels or not is_deep(header.mode)):
            return None
        with opened_image(path) as image:
            if is_deep(header.mode):
                return Measured(_FEW_GREYS, float(np.asarray(image).max()), FEW_GREYS)
            highest = float(np.asarray(image.convert("RGB")).max())
            return Measured(_DARK_COLOURS, highest, DARK_COLOUR)
    except (DataError, *UNREADABLE):
        return None


def frames_remark(path: Any) -> str | None:
    """Return a remark about an image with several frames or pages; None for another."""
    try:
        return _SEVERAL if read_header(path).several else None
    except DataError:
        return None


def class_numbers(path: Any, *, colours: Colours = "refuse") -> NDArray[np.int32]:
    """Return a mask's pixel values (height, width), unconverted; for a palette image, the indices.

    Raises DataError for a file that is not an image, is truncated or too large, or has several different channels;
    `colours` allows those.
    """
    path = opened(path)
    with opened_image(path) as image:
        if image.mode == "F":
            message = f"mask {image_name(path)} has 1 channel of fractions (F); a mask has one, of integers"
            raise DataError(f"{message}: save it as a greyscale or palette PNG of class numbers")
        try:
            return channel_numbers(ImageOps.exif_transpose(image), image_name(path), colours)
        except UNREADABLE as error:
            raise DataError(f"mask {image_name(path)} is not readable: {error}") from None


def image_name(path: Any) -> str:
    """Return an image's name in messages: its path, or `in this row` for bytes."""
    if isinstance(path, FileBytes):
        return path.name
    return str(path) if isinstance(path, str | os.PathLike) else "in this row"


@lru_cache(maxsize=64)
def _remembered_header(path: str, state: tuple[int, ...]) -> Header:
    """Return the header of a file in that state."""
    return _read_header(path)


def _read_header(path: Any) -> Header:
    with opened_image(path) as image:
        deep = _has_deep_colours(image)
        _refuse_truncated(image, path)
        # Pillow's method for PNG decodes all pixels in search of a late chunk; the general one reads the header.
        written = Image.Image.getexif(image).get(ORIENTATION)
        orientation = next((known for known in range(1, 9) if known == written), 1)
        size = (image.height, image.width) if orientation in ROTATED else (image.width, image.height)
        return Header(size, image.mode, deep, _has_several(image), orientation)


def is_deep(mode: str) -> bool:
    """Return whether pixels are greys of more than 8 bits, or floating-point numbers."""
    return mode.startswith("I") or mode == "F"


def _has_deep_colours(image: Image.Image) -> bool:
    kinds = [tile[3] if isinstance(tile[3], str) else (tile[3] or ("",))[0] for tile in getattr(image, "tile", ())]
    return not is_deep(image.mode) and any(";16" in str(kind) for kind in kinds)


def _has_several(image: Image.Image) -> bool:
    """Return whether frames follow the first; the second image of a telephone's JPEG is no frame."""
    try:
        return image.format in ANIMATED and bool(getattr(image, "is_animated", False))
    except UNREADABLE:
        return False


def _eight_bits(image: Image.Image, path: Any, levels: Levels | None) -> Image.Image:
    """Convert deep greys to 8 bits; Pillow may have read 16 bits as 32.

    Pillow's own conversion would make every level above 255 white.
    """
    found = np.asarray(image)
    if levels is not None:
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise DataError(f"image {image_name(path)} holds pixels that are no numbers: repair it or leave it out")
        return Image.fromarray(stretch(found, *levels))
    greys = found.astype(np.int64)
    if greys.min() < 0 or greys.max() > WHITE_16_BITS:
        raise DataError(
            f"image {image_name(path)} has grey levels {greys.min()} to {greys.max()}; allowed are 0 to 255, or 0 to "
            f"{WHITE_16_BITS} in 16 bits: write the levels of black and white in task.levels, or save it in that range"
        )
    return Image.fromarray((greys >> 8).astype(np.uint8))


def _refuse_floats(image: Image.Image, path: Any, levels: Levels | None) -> None:
    """Raise DataError for floating-point pixels without `levels`: white could be 1, 255 or a scanner's maximum."""
    if image.mode == "F" and levels is None:
        message = "floating-point pixels, whose value for white is not known: write the levels of black and white in"
        raise DataError(f"image {image_name(path)} has {message} task.levels, or save it as greys of 8 or 16 bits")


def _refuse_truncated(image: Image.Image, path: Any) -> None:
    """Raise DataError for a truncated file: its header is valid, but decoding would fail in the middle of a run.

    If no end marker is found, the file is decoded, which is slow: other data may follow the pixels. A file that is
    known by its content was decoded when it was checked.
    """
    end = END_MARKERS.get(image.format or "")
    if end is None or not isinstance(path, str | os.PathLike) or (isinstance(path, FileRef) and path.sha256):
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


def begins_like_picture(head: bytes) -> bool:
    """Return whether a file's first bytes are those of a format that is read and begins with a mark of its own."""
    Image.init()
    found: list[object] = []
    for _, accept in (Image.OPEN[name] for name in FORMATS if name in Image.OPEN):
        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # as Pillow does where it asks
            found.append(accept(head[:_MARK]) if accept else False)
    return any(answer and not isinstance(answer, str) for answer in found)  # a text says why it is not read


def opened_image(path: Any) -> Image.Image:
    """Open an image without decoding its pixels.

    Raises DataError for a file that is not an image, is too large, or takes too much to decode or resize.
    """
    assert not isinstance(path, UndecodedFile), "it is for another process"
    name = f"image {image_name(path)}"
    if isinstance(path, bytes) and not isinstance(path, FileBytes):  # the structure of a file was checked with it
        refuse_structure(path, name)
    try:
        image = Image.open(io.BytesIO(path) if isinstance(path, bytes) else path, formats=FORMATS)
        if image.format in SIZED_INSIDE:
            image.load()
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
    refuse_shape(image, name)
    return image
