"""Class numbers out of a mask's channels: one grey channel, equal ones, or colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.errors import DataError

Colours = Literal["refuse", "take", "only"]
"""Treatment of a mask's colours. refuse: a mask holds numbers. take: a coloured pixel is the number 0xRRGGBB. only:
every pixel is such a number, those of a palette or a grey mask too."""
_JPEG = b"\xff\xd8\xff"
"""The first bytes of a JPEG, which changes pixel values."""
_SHOWN = 4


def channel_numbers(image: Image.Image, name: str, colours: Colours) -> NDArray[np.int32]:
    """Return a number for each pixel (height, width) of a decoded mask. DataError for channels of several meanings.

    The indices of a palette are numbers. Three equal channels are one. Transparent pixels must be black, so that they
    do not hide another class.
    """
    if colours == "only":
        return _packed(_channels(image.convert("RGBA" if "transparency" in image.info else _rgb(image)), name))
    if len(image.getbands()) == 1:
        return np.asarray(image).astype(np.int32)
    if image.mode not in ("RGB", "RGBA", "LA", "RGBX"):
        raise DataError(
            f"mask {name} has {len(image.getbands())} channels ({image.mode}); a mask has one, of integers: save it as "
            "a greyscale or palette PNG of class numbers"
        )
    pixels = _channels(image.convert(_rgb(image)), name)
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0].astype(np.int32)
    if colours == "take":
        return _packed(pixels)
    found, counts = np.unique(_packed(pixels), return_counts=True)
    some = [colour_name(int(found[place])) for place in np.argsort(-counts, kind="stable")[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    number = "1 colour" if len(found) == 1 else f"{len(found)} colours"
    raise DataError(
        f"mask {name} has {len(image.getbands())} channels ({image.mode}) with {number} ({', '.join(some)}"
        f"{more}): write the colour of each label in task.colours, as in "
        f"{{background: '{some[0]}', object: '{some[-1]}'}}, or save it as a greyscale or palette PNG of class numbers"
    )


def is_jpeg(mask: Any) -> bool:
    """Return whether a path or some bytes are a JPEG, by their beginning."""
    if isinstance(mask, bytes):
        return mask.startswith(_JPEG)
    try:
        with open(mask, "rb") as file:
            return file.read(len(_JPEG)) == _JPEG
    except OSError:
        return False


def colour_name(number: int) -> str:
    """Return a colour 0xRRGGBB as a spec writes it."""
    return f"#{number:06x}"


def nearest(numbers: NDArray[np.int32], allowed: Mapping[str, int]) -> NDArray[np.int32]:
    """Return colours 0xRRGGBB replaced by the nearest allowed ones, as compression has changed them a little."""
    known = np.array(list(allowed.values()), np.int64)
    found, places = np.unique(numbers, return_inverse=True)
    difference = _unpacked(found)[:, None] - _unpacked(known)[None]
    chosen: NDArray[np.int32] = known[(difference**2).sum(-1).argmin(1)].astype(np.int32)
    return chosen[places].reshape(numbers.shape)


def brightness(numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the brightest channel of numbers 0xRRGGBB, or of greys."""
    found: NDArray[np.int32] = np.maximum.reduce([(numbers >> shift) & 255 for shift in (16, 8, 0)]).astype(np.int32)
    return found


def _rgb(image: Image.Image) -> str:
    return "RGBA" if image.mode in ("RGBA", "LA", "PA") else "RGB"


def _channels(image: Image.Image, name: str) -> NDArray[Any]:
    """Return red, green and blue (height, width, 3). DataError where transparent pixels have colours of their own."""
    pixels = np.asarray(image)
    if pixels.shape[2] == 3:
        return pixels
    hidden = pixels[..., 3] == 0
    shaped = hidden.any() and not hidden.all()  # black that is transparent everywhere is a mask without an object
    if pixels[..., :3][hidden].any() or (shaped and not pixels[..., :3].any()):
        raise DataError(
            f"mask {name} holds its shapes in transparency: a transparent pixel may be background, or have the colour "
            "that is stored below. Save it without transparency, as a greyscale or palette PNG of class numbers"
        )
    return pixels[..., :3]


def _packed(pixels: NDArray[Any]) -> NDArray[np.int32]:
    """Return colours (height, width, 3) as numbers 0xRRGGBB."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def _unpacked(numbers: NDArray[Any]) -> NDArray[np.int64]:
    return np.stack([(numbers >> shift) & 255 for shift in (16, 8, 0)], axis=-1).astype(np.int64)
