"""Pictures that a page carries within itself: made small, and no more of them than a budget of bytes allows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.errors import DataError
from regraft.media.pixels.images import opened

SIDE = 400
"""Longest side in pixels: twice what a card shows at its widest on a phone."""
SMALL = 96
"""Images no larger are kept as they are, without loss: every pixel of a digit or an icon counts."""
BYTES = 6_000_000
_COLOURS = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66)),
    *((148, 103, 189), (140, 86, 75), (23, 190, 207), (188, 189, 34), (214, 39, 40)),
)
"""Okabe and Ito's, which people who confuse red with green can tell apart; then others."""


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI, with the size of the original."""

    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether it is shown larger than it is, pixels as squares."""
        return max(self.width, self.height) <= SMALL


class Thumbnails:
    """Pictures made so far; when the budget is spent, the rest are left out."""

    def __init__(self, budget: int = BYTES) -> None:
        self._left = budget
        self.left_out = 0
        """Pictures that no longer fitted."""

    def add(self, image: Image.Image) -> Thumbnail | None:
        """A picture of the image; None when the budget is spent."""
        size = image.size
        lossless = max(size) <= SMALL
        small = image.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        if lossless:
            small.save(file, "PNG", optimize=True)
        else:
            small.save(file, "JPEG", quality=82, optimize=True)
        if len(file.getvalue()) > self._left:
            self.left_out += 1
            return None
        self._left -= len(file.getvalue())
        coded = base64.b64encode(file.getvalue()).decode("ascii")
        return Thumbnail(f"data:image/{'png' if lossless else 'jpeg'};base64,{coded}", *size)


def displayed_image(value: Any) -> Image.Image | None:
    """The image of a cell as it is meant to be seen; None when it cannot be opened any more."""
    try:
        return opened(value)
    except DataError:
        return None


def overlaid(image: Image.Image, classes: NDArray[np.int64], numbers: Sequence[int]) -> Image.Image:
    """The image in grey under the colours of the classes `numbers`; every other pixel stays as it is."""
    shade = np.asarray(image.convert("L").convert("RGB"), np.float32)
    if classes.shape != shade.shape[:2]:
        resized = Image.fromarray(classes.astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
        classes = np.asarray(resized).astype(np.int64)
    for number in numbers:
        where = classes == number
        shade[where] = 0.35 * shade[where] + 0.65 * np.array(colour(number), np.float32)
    return Image.fromarray(shade.round().astype(np.uint8))


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a class, the same on every picture."""
    return _COLOURS[number % len(_COLOURS)]
