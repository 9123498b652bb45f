"""Pictures that a page carries within itself: made small, and no more of them than a budget of bytes allows."""

from __future__ import annotations

import base64
import io

from PIL import Image

from regraft.contracts.views import SMALL, Thumbnail

SIDE = 400
"""Longest side in pixels: twice what a card shows at its widest on a phone."""
BYTES = 6_000_000


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
