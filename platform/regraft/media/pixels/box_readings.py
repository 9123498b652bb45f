"""What the four numbers of a box mean, and signs in a whole file that they mean something else than assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from regraft.media.pixels.picture_sizes import Extent

BoxForm = Literal["xywh", "xyxy", "cxcywh", "shares", "xyxy-shares", "cxcywh-shares"]
"""Meaning of a box's four numbers: x, y, width, height; two corners; centre, width, height. In pixels, or as shares
of the picture's width and height (`shares`: x, y, width, height)."""
MEANINGS: dict[str, str] = {
    "xywh": "x, y, width, height in pixels",
    "xyxy": "corners x1, y1, x2, y2 in pixels",
    "cxcywh": "centre x, centre y, width, height in pixels",
    "shares": "x, y, width, height as shares of the picture",
    "xyxy-shares": "corners x1, y1, x2, y2 as shares of the picture",
    "cxcywh-shares": "centre x, centre y, width, height as shares of the picture",
}
SLACK = 1.0
"""Pixels by which a box may exceed its image, since annotation tools round. Such boxes are cut at the border."""
_SHARES: tuple[BoxForm, ...] = ("shares", "xyxy-shares", "cxcywh-shares")
_SHARE_SLACK = 0.02
_MOST = 0.98
"""Share of boxes that fit their picture by a reading that is possible."""
_ENOUGH: dict[BoxForm, tuple[int, float]] = {"xyxy": (1, 0.05), "cxcywh": (3, 0.1)}
"""Boxes, and their share, that must not fit as x, y, width, height before another reading is suggested: those of a few
annotator's mistakes often fit as centre and size."""


def in_shares(form: BoxForm) -> bool:
    """Return whether a form's numbers are shares of the picture."""
    return form in _SHARES


def in_pixels(box: Sequence[float], form: BoxForm, size: Extent) -> list[float]:
    """Return a box as [x, y, width, height] in pixels of a picture of that size."""
    one, two, three, four = (
        (value * side for value, side in zip(box, (*size, *size), strict=True)) if form in _SHARES else box
    )
    if form in ("xyxy", "xyxy-shares"):
        return [one, two, three - one, four - two]
    if form in ("cxcywh", "cxcywh-shares"):
        return [one - three / 2, two - four / 2, three, four]
    return [one, two, three, four]


def around(points: Sequence[Sequence[float]], form: BoxForm) -> list[float]:
    """Return the box around points (x, y), as that form writes it in the unit of the points."""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top, bottom = min(y for _, y in points), max(y for _, y in points)
    if form in ("xyxy", "xyxy-shares"):
        return [left, top, right, bottom]
    if form in ("cxcywh", "cxcywh-shares"):
        return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return [left, top, right - left, bottom - top]


def fits(box: Sequence[float], form: BoxForm, size: Extent, slack: float = SLACK) -> bool:
    """Return whether a box of that form has an area and lies in a picture of that size."""
    left, top, across, down = in_pixels(box, form, size)
    if across <= 0 or down <= 0 or left < -slack or top < -slack:
        return False
    return left + across <= size[0] + slack and top + down <= size[1] + slack


def looks_like_shares(boxes: Sequence[Sequence[float]]) -> bool:
    """Return whether all numbers of some boxes are between 0 and 1, nearly."""
    return bool(boxes) and all(-_SHARE_SLACK <= value <= 1 + _SHARE_SLACK for box in boxes for value in box)


def described(box: Sequence[float], form: BoxForm, size: Extent) -> str:
    """Return where a box lies in a picture by one reading, in words."""
    left, top, across, down = (round(value, 2) for value in in_pixels(box, form, size))
    return f"{across:g} x {down:g} pixels at {left:g}, {top:g} as {MEANINGS[form]}"


def written_box(box: Sequence[float]) -> str:
    """Return a box as it is written."""
    return f"[{', '.join(f'{value:g}' for value in box)}]"


@dataclass
class BoxEvidence:
    """What the boxes of a file, read as x, y, width, height in pixels, show about their meaning."""

    count: int = 0
    """Boxes with an area; others show nothing about their meaning."""
    sized: int = 0
    outside: int = 0
    shares: bool = True
    fitting: dict[BoxForm, int] = field(default_factory=lambda: dict.fromkeys(get_args(BoxForm), 0))
    examples: dict[str, tuple[list[float], Extent, str]] = field(default_factory=dict)

    def add(self, box: Sequence[float], size: Extent | None, where: str) -> None:
        """Count one box of a picture; a size of None is not known."""
        has_area = min(box[2:]) > 0
        self.count += has_area
        self.shares = self.shares and looks_like_shares([box])
        for form in _SHARES if self.shares and has_area else ():
            self.fitting[form] += fits(box, form, (1, 1), _SHARE_SLACK)
        if size is None:
            return
        self.sized += 1
        self.examples.setdefault("first", (list(box), size, where))
        if fits(box, "xywh", size) or not has_area:
            self.fitting["xywh"] += 1
        else:
            self.outside += 1
            self.examples.setdefault("outside", (list(box), size, where))
        for form in _ENOUGH:
            self.fitting[form] += fits(box, form, size)

    def doubt(self, kind: str) -> str | None:
        """Return a message that shows the readings that are possible, or None where there is one.

        `kind` is the source in `data.format`, for the settings that the message names.
        """
        if self.count and self.shares:
            likely = [form for form in _SHARES if self.fitting[form] == self.count] or list(_SHARES)
            begin = f"all numbers of its {_boxes(self.count)} are between 0 and 1"
            return self._message(kind, likely, "first", begin)
        likely = [
            form
            for form, (count, share) in _ENOUGH.items()
            if self.outside >= max(count, share * self.sized) and self.fitting[form] >= _MOST * self.sized
        ]
        if not likely:
            return None
        begin = f"{self.outside:,} of {_boxes(self.sized)} do not lie in their pictures as {MEANINGS['xywh']}"
        return self._message(kind, likely, "outside", begin)

    def _message(self, kind: str, likely: Sequence[BoxForm], example: str, begin: str) -> str:
        settings = ", or ".join(f"data.format: {{type: {kind}, boxes: {form}}}" for form in (*likely, "xywh"))
        if example not in self.examples:
            shown = " or ".join(MEANINGS[form] for form in ("xywh", *likely))
            return f"{begin}, which may be {shown}: write {settings}"
        box, size, where = self.examples[example]
        shown = "; or ".join(described(box, form, size) for form in ("xywh", *likely))
        at = f"in {where}, a picture of {size[0]:g} x {size[1]:g} pixels"
        return f"{begin}: {written_box(box)} {at}, is {shown}. Write what is meant: {settings}"


def _boxes(count: int) -> str:
    return "1 box" if count == 1 else f"{count:,} boxes"
