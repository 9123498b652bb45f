"""Images embedded in a page: scaled down, and only as many as a budget of bytes allows."""

from __future__ import annotations

import base64
import io

from PIL import Image

from regraft.contracts.views import SMALL, Thumbnail

SIDE = 400
"""Longest side in pixels: twice the width of a card on a phone."""
BYTES = 6_000_000


class Thumbnails:
    """Makes the thumbnails of one page; images beyond the budget are left out."""

    def __init__(self, budget: int = BYTES) -> None:
        self._left = budget
        self.left_out = 0
        """Number of images beyond the budget."""

    def add(self, image: Image.Image) -> Thumbnail | None:
        """Return the image scaled down and encoded; None if the budget is spent."""
        small = image.copy()
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        lossless = max(image.size) <= SMALL
        data = _encoded(small, lossless=lossless)
        if len(data) > self._left:
            self.left_out += 1
            return None
        self._left -= len(data)
        coded = base64.b64encode(data).decode("ascii")
        return Thumbnail(f"data:image/{'png' if lossless else 'jpeg'};base64,{coded}", *image.size)


def _encoded(image: Image.Image, *, lossless: bool) -> bytes:
    file = io.BytesIO()
    if lossless:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=82, optimize=True)
    return file.getvalue()
