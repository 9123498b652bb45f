"""Boxes with what their file says about them, and their place in the picture as it is seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from regraft.contracts import BadCell
from regraft.media.pixels.box_readings import BoxForm, in_pixels, in_shares
from regraft.media.pixels.picture_sizes import Extent, PictureSize

_TURNED = (
    "boxes were drawn on the picture as it is stored, and are turned with it as its EXIF orientation says: their "
    "file declares the size of the stored picture"
)
_UNKNOWN_TURN = (
    "the picture is turned by its EXIF orientation, and the size that its file declares does not tell whether boxes "
    "were drawn before or after: they are taken as drawn on the upright picture"
)
_PROPORTION = 0.02
"""Relative difference of two proportions from which boxes as shares do not fit a picture."""


class AnnotatedBoxes(list[list[float]]):
    """Boxes with what their file says about them: the meaning of the numbers, and the size of their picture."""

    form: BoxForm = "xywh"
    size: Extent | None = None
    remark: str | None = None

    @classmethod
    def of(cls, boxes: Iterable[Any], form: BoxForm, size: Extent | None, remark: str | None = None) -> Self:
        """Return boxes in that form, drawn on a picture that had that size; None where it is not known."""
        annotated = cls(boxes)
        annotated.form, annotated.size, annotated.remark = form, size, remark
        return annotated

    def in_picture(self, picture: PictureSize) -> Self:
        """Return the boxes as [x, y, width, height] in pixels of the upright picture.

        BadCell where they were drawn on a picture of another size.
        """
        size, remark = self.size or picture.upright, self.remark
        if size not in (picture.upright, picture.stored):
            if not in_shares(self.form) or not _in_proportion(size, picture.upright):
                raise BadCell(_other_size(size, picture))
            size = picture.upright
        boxes = [in_pixels(box, self.form, size) for box in self]
        if size != picture.upright:
            boxes, remark = [picture.turn(box) for box in boxes], remark or _TURNED
        elif boxes and self.size and picture.turned and picture.upright == picture.stored:
            remark = remark or _UNKNOWN_TURN
        return self.of(boxes, "xywh", None, remark)


def _in_proportion(size: Extent, other: Extent) -> bool:
    return abs(size[0] * other[1] - size[1] * other[0]) <= _PROPORTION * size[0] * other[1]


def _other_size(size: Extent, picture: PictureSize) -> str:
    """Return the message for boxes that were drawn on a picture of another size."""
    width, height = picture.stored
    turned = f", seen as {picture.upright[0]} x {picture.upright[1]} by its EXIF orientation" if picture.turned else ""
    return (
        f"were drawn on an image of {size[0]:g} x {size[1]:g} pixels, as their file says, and the image has {width} x "
        f"{height}{turned}: use the image that was annotated, or scale the boxes and correct the size"
    )
