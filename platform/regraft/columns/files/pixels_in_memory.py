"""Pictures that a Python caller holds in memory: PIL images, and arrays of NumPy or PyTorch, as PNG files.

As a file a picture takes the same way through the model as one on a disk, so that both get the same answer.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from regraft.contracts.column import BadCell
from regraft.media.pixels.images import MEGAPIXELS, ORIENTATION, UNREADABLE

CHANNELS = (1, 3, 4)
"""Numbers of channels: grey, RGB, RGB with opacity."""
WHITE_16_BITS = 65535
_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of PIL's that a PNG file holds without a change."""


def holds_pixels(value: Any) -> bool:
    """Return whether a value is a PIL image, or an array of NumPy's, PyTorch's or another library."""
    return isinstance(value, Image.Image) or (hasattr(value, "dtype") and len(getattr(value, "shape", ())) > 0)


def is_one_picture(value: Any) -> bool:
    """Return whether a value is one picture, and not several: an array of four dimensions is a batch."""
    return holds_pixels(value) and (isinstance(value, Image.Image) or len(value.shape) in (2, 3))


def picture_file(value: Any) -> bytes:
    """Return a picture as a PNG file. BadCell for pixels whose meaning is not certain, such as floating-point ones."""
    image = value if isinstance(value, Image.Image) else image_of(value)
    if image.width * image.height > MEGAPIXELS * 1_000_000:
        raise BadCell(f"has {image.width} x {image.height} pixels; at most {MEGAPIXELS} megapixels are allowed")
    try:
        turned, exif = image.getexif().get(ORIENTATION), Image.Exif()
        if turned:
            exif[ORIENTATION] = turned
        file = io.BytesIO()
        _for_png(image).save(file, "PNG", compress_level=1, exif=exif)
    except UNREADABLE as error:  # a file that PIL had opened, and decodes only now
        raise BadCell(f"cannot be read: {error}") from None
    return file.getvalue()


def image_of(value: Any) -> Image.Image:
    """Return an array (height, width), (height, width, channels) or (channels, height, width) as a PIL image."""
    kind = str(value.dtype).removeprefix("torch.")
    if kind not in ("uint8", "uint16") or (kind == "uint16" and len(value.shape) != 2):
        advice = "(255 * x).round() in uint8 for values from 0 to 1" if "float" in kind else "x.astype('uint8')"
        raise BadCell(f"is an array of {kind}; allowed are pixels of 8 bits (uint8): pass {advice}")
    pixels = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if not pixels.size:
        raise BadCell(f"is an array of shape {tuple(value.shape)}, which has no pixels")
    if pixels.ndim == 3:
        pixels = _channels_last(pixels, torch_like=hasattr(value, "detach"))
    elif pixels.ndim != 2:
        raise BadCell(f"is an array of shape {tuple(value.shape)}; {_allowed_shapes()}")
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _channels_last(pixels: np.ndarray[Any, Any], *, torch_like: bool) -> np.ndarray[Any, Any]:
    """Return pixels (height, width, channels). NumPy's images have channels last, PyTorch's may have them first."""
    first, last = pixels.shape[0] in CHANNELS, pixels.shape[2] in CHANNELS
    if (first and last and torch_like) or not (first or last):
        both = "either end of which may be its channels" if first else "neither end of which are channels"
        raise BadCell(f"is an array of shape {pixels.shape}, {both}; {_allowed_shapes()}")
    return pixels if last else np.moveaxis(pixels, 0, 2)


def _allowed_shapes() -> str:
    return "allowed are (height, width), (height, width, 3) and (3, height, width); pass several pictures as a list"


def _for_png(image: Image.Image) -> Image.Image:
    """Return an image in a mode that PNG holds."""
    if image.mode in _AS_PNG:
        return image
    if image.mode == "F":
        raise BadCell("has floating-point pixels, whose value for white is not known: convert it to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    low, high = np.asarray(image).min(), np.asarray(image).max()
    if low < 0 or high > WHITE_16_BITS:
        raise BadCell(f"has grey levels {low} to {high}; allowed are 0 to 255 in 8 bits, or 0 to {WHITE_16_BITS} in 16")
    return Image.fromarray(np.asarray(image).astype(np.uint16))
