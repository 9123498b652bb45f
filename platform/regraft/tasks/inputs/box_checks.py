"""Checks of true boxes against their image, with the other readings of numbers that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regraft.media.pixels.annotated_boxes import AnnotatedBoxes
from regraft.media.pixels.box_readings import SLACK, BoxForm, described, fits, looks_like_shares, written_box
from regraft.media.pixels.picture_sizes import Extent, picture_size

TINY = 4
"""Pixels of an image's shorter side from which boxes of at most one pixel are doubtful."""
_SETTING = "task: {{type: object-detection, boxes: {}}}"


def boxes_problem(boxes: Sequence[Sequence[float]], size: Extent, image: Any) -> str | None:
    """Return what is wrong with boxes in an upright image of that size, or None.

    Boxes of a table may be meant otherwise than as x, y, width, height in pixels: the message then shows both readings.
    """
    table = not isinstance(boxes, AnnotatedBoxes)
    for number, box in enumerate(boxes):
        if wrong := _box_problem(box, size):
            more = _other_reading(box, size, image, table=table)
            return f"box {number} is {written_box(box)} and {wrong}{more}"
    if table and looks_like_shares(boxes) and min(size) > TINY:
        return _doubtful_shares(boxes[0], size)
    return None


def _box_problem(box: Sequence[float], size: Extent) -> str | None:
    """Return what is wrong with a box in an image of that size, or None."""
    if len(box) != 4:
        return f"has {len(box)} numbers; a box is [x, y, width, height]"
    if not np.isfinite(box).all():
        return "has a number that is not finite"
    (left, top, across, down), (width, height) = box, size
    if across <= 0 or down <= 0:
        return "has no area"
    out = left < -SLACK or top < -SLACK or left + across > width + SLACK or top + down > height + SLACK
    # A box that lies entirely in the slack would be cut to nothing.
    empty = left >= width or top >= height or left + across <= 0 or top + down <= 0
    return f"lies outside of its image of {width:g} x {height:g} pixels" if out or empty else None


def _other_reading(box: Sequence[float], size: Extent, image: Any, *, table: bool) -> str:
    """Return what a message adds about a box that would fit its image otherwise, or nothing."""
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
        return ""
    if table and fits(box, "xyxy", size):
        return f"; it would be {described(box, 'xyxy', size)}: write {_SETTING.format('xyxy')} if it is"
    picture = picture_size(image)
    if picture.stored == picture.upright or not fits(box, "xywh", picture.stored):
        return ""
    across, down = picture.stored
    return (
        f"; it lies inside of the image as it is stored, {across} x {down}, which is turned by its EXIF orientation: "
        "turn the boxes, or save the image upright"
    )


def _doubtful_shares(box: Sequence[float], size: Extent) -> str:
    """Return the message for boxes of a table that are probably shares of the image."""
    readings: tuple[BoxForm, ...] = ("xywh", "shares", "xyxy-shares", "cxcywh-shares")
    fitting = [form for form in readings if fits(box, form, size)]
    shown = "; or ".join(described(box, form, size) for form in fitting)
    settings = ", or ".join(_SETTING.format(form) for form in fitting)
    return (
        f"no number of its boxes is above 1: {written_box(box)} in an image of {size[0]:g} x {size[1]:g} pixels is "
        f"{shown}. Write what is meant: {settings}"
    )
