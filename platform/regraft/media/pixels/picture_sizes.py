"""Sizes of a picture as it is stored and as it is seen, and boxes that turn with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regraft.media.pixels.images import ROTATED, read_header

Extent = tuple[float, float]
"""(width, height) in pixels."""
_UPRIGHT = 1
_NOTHING = ("", "none", "null", "nan")


@dataclass(frozen=True, slots=True)
class PictureSize:
    """The size of a picture's stored pixels, and how EXIF says to turn them."""

    width: int
    height: int
    orientation: int = _UPRIGHT

    @property
    def stored(self) -> Extent:
        """The (width, height) of the stored pixels."""
        return self.width, self.height

    @property
    def upright(self) -> Extent:
        """The (width, height) of the picture as it is seen."""
        return (self.height, self.width) if self.orientation in ROTATED else (self.width, self.height)

    @property
    def turned(self) -> bool:
        """Whether the picture is not stored as it is seen."""
        return self.orientation != _UPRIGHT

    def turn(self, box: Sequence[float]) -> list[float]:
        """Return a box [x, y, width, height] of the stored pixels as a box of the upright picture."""
        left, top, across, down = box
        right, bottom = self.width - left - across, self.height - top - down
        return {
            2: [right, top, across, down],
            3: [right, bottom, across, down],
            4: [left, bottom, across, down],
            5: [top, left, down, across],
            6: [bottom, left, down, across],
            7: [bottom, right, down, across],
            8: [top, right, down, across],
        }.get(self.orientation, [left, top, across, down])


def declared_size(width: object, height: object) -> Extent | None:
    """Return the size that an annotation declares; None where it declares none, such as 0, -1 or nan.

    Raises ValueError for what is no number.
    """
    sides: list[float] = []
    for name, written in (("width", width), ("height", height)):
        if written is None or str(written).strip().lower() in _NOTHING:
            return None
        try:
            side = math.nan if isinstance(written, bool) else float(str(written))
        except ValueError:
            side = math.nan
        if not -math.inf < side < math.inf:
            raise ValueError(f"{name} is {written!r:.60}; the image's {name} in pixels is wanted, or nothing")
        sides.append(side)
    return (sides[0], sides[1]) if min(sides) > 0 else None


def picture_size(picture: Any) -> PictureSize:
    """Return the size of a path's or some bytes' picture by its header. Raises DataError if it cannot be read."""
    header = read_header(picture)
    width, height = header.size[::-1] if header.orientation in ROTATED else header.size
    return PictureSize(width, height, header.orientation)
