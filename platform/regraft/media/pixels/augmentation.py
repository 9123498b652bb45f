"""How are training images changed at random, and how do boxes and masks follow?

Every pixel is moved or coloured by Pillow: what RandAugment (Cubuk et al., 2019) needs is there, works on bytes, and
draws nothing by itself. All choices come from one 64-bit number, so that neither torch's generators, on which dropout
depends, nor the order in which rows are read have a part in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

Level = Literal["light", "strong"]
Boxes = Sequence[Sequence[float]]

VISIBLE = 0.3
"""Least share of a box's area that must still be seen for the box to be kept."""
GREY = 128
_SIDES = frozenset({"left", "right", "l", "r", "clockwise", "counterclockwise", "anticlockwise"})


@dataclass(frozen=True, slots=True)
class Strength:
    """How far a level goes."""

    zoom: tuple[float, float]
    """Least and largest factor; above 1 a random part is seen, below 1 the image stands somewhere on grey."""
    degrees: float
    """Largest rotation, and shear, to either side."""
    colour: float
    """Largest change of brightness, contrast and saturation, as a share."""
    operations: int
    """Colour operations of RandAugment besides."""
    erased: float
    """How often a rectangle is painted over (random erasing: Zhong et al., 2017)."""


STRENGTHS: dict[Level, Strength] = {
    "light": Strength(zoom=(1.0, 1.25), degrees=0, colour=0.15, operations=0, erased=0),
    "strong": Strength(zoom=(0.75, 1.6), degrees=12, colour=0.3, operations=2, erased=0.25),
}

_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, _: ImageOps.autocontrast(image),
    lambda image, _: ImageOps.equalize(image),
    lambda image, amount: ImageOps.posterize(image, 7 - int(4 * amount)),
    lambda image, amount: ImageOps.solarize(image, 255 - int(128 * amount)),
    lambda image, amount: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * amount),
)
"""Each with an amount in [0, 1)."""
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True)
class Augmentation:
    """One change, for an image and for whatever is known of places in it."""

    size: tuple[int, int]
    """(width, height) of the image, before and after."""
    matrix: NDArray[np.float64]
    """(3, 3): where a point of the image goes, in pixels counted from the outer corner of the first one."""
    factors: tuple[float, ...]
    """Of brightness, contrast and saturation."""
    operations: tuple[tuple[int, float], ...]
    """Which operations of RandAugment, each with its amount."""
    erased: tuple[int, int, int, int] | None
    """Corners (left, top, right, bottom) of what is painted over."""
    paint: tuple[int, int, int]

    @classmethod
    def drawn(cls, level: Level, draw: int, size: tuple[int, int], *, mirror: bool = True) -> Augmentation:
        """The change that the number `draw` means for an image of that (width, height).

        `mirror`: whether half of the images are flipped left to right; see `mirrors`.
        """
        strength, draws = STRENGTHS[level], _Draws(draw)
        flip = -1.0 if mirror and draws.unit() < 0.5 else 1.0
        zoom = math.exp(draws.between(math.log(strength.zoom[0]), math.log(strength.zoom[1])))
        turn, shear = (math.radians(draws.between(-strength.degrees, strength.degrees)) for _ in range(2))
        # As far as the part that is seen stays in the image, or the image in what is seen.
        room = [abs(zoom - 1) * side / 2 for side in size]
        shift = [draws.between(-most, most) for most in room]
        factors = tuple(1 + draws.between(-strength.colour, strength.colour) for _ in _ENHANCERS)
        operations = tuple((int(draws.unit() * len(_OPERATIONS)), draws.unit()) for _ in range(strength.operations))
        erased = _rectangle(size, draws) if draws.unit() < strength.erased else None
        paint = int(draws.unit() * 256), int(draws.unit() * 256), int(draws.unit() * 256)
        return cls(size, _matrix(size, flip, zoom, turn, shear, shift), factors, operations, erased, paint)

    def in_place(self) -> Augmentation:
        """The same change of colours alone: nothing is moved, turned or zoomed."""
        return replace(self, matrix=np.eye(3))

    def image(self, image: Image.Image) -> Image.Image:
        """The RGB image changed, of the same size."""
        image = self._moved(image, Image.Resampling.BILINEAR, (GREY, GREY, GREY))
        for enhancer, factor in zip(_ENHANCERS, self.factors, strict=True):
            image = enhancer(image).enhance(factor)
        for number, amount in self.operations:
            image = _OPERATIONS[number](image, amount)
        if self.erased is not None:
            image.paste(self.paint, self.erased)
        return image

    def mask(self, mask: NDArray[np.int32], ignored: int) -> NDArray[np.int32]:
        """Class numbers (height, width) moved as the image is, none of them mixed; `ignored` where no image is left."""
        moved = self._moved(Image.fromarray(mask), Image.Resampling.NEAREST, ignored)
        if self.erased is not None:
            moved.paste(ignored, self.erased)
        return np.asarray(moved, dtype=np.int32)

    def boxes(self, boxes: Boxes) -> tuple[list[list[float]], list[int]]:
        """Boxes [x, y, width, height] that are still seen, cut at the border, and their numbers among those given.

        A turned box becomes the upright one around it. A box is dropped when less than VISIBLE of its area is seen.
        """
        kept: list[list[float]] = []
        numbers: list[int] = []
        for number, (left, top, across, down) in enumerate(boxes):
            corners = self._around(left, top, left + across, top + down)
            seen = _cut(corners, (0, 0, *self.size))
            painted = 0.0 if self.erased is None else _area(_cut(seen, self.erased))
            if _area(seen) - painted >= VISIBLE * _area(corners) and _area(seen) > 0:
                kept.append([seen[0], seen[1], seen[2] - seen[0], seen[3] - seen[1]])
                numbers.append(number)
        return kept, numbers

    def _moved(self, image: Image.Image, resample: Image.Resampling, fill: Any) -> Image.Image:
        # Pillow asks where a pixel comes from, and counts from the outer corner of the first one as boxes do.
        inverse = np.linalg.inv(self.matrix)[:2].ravel().tolist()
        return image.transform(self.size, Image.Transform.AFFINE, inverse, resample=resample, fillcolor=fill)

    def _around(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        (left, top), (right, bottom) = (
            (min(max(x, 0), self.size[0]), min(max(y, 0), self.size[1])) for x, y in ((left, top), (right, bottom))
        )
        points = self.matrix @ np.array([[left, right, right, left], [top, top, bottom, bottom], [1, 1, 1, 1]])
        return tuple(map(float, (*points[:2].min(1), *points[:2].max(1))))  # type: ignore[return-value]


@lru_cache(maxsize=16)
def mirrors(labels: tuple[str, ...]) -> bool:
    """Whether a flipped image keeps its label: not where one names a side, nor where they are single characters.

    A 2 in the mirror is no 2, and `turn left` no longer tells the truth.
    """
    words = [re.findall(r"[a-z0-9]+", label.lower()) for label in labels]
    return not any(_SIDES.intersection(word) for word in words) and not any(
        len(word) == 1 and len(word[0]) == 1 for word in words
    )


class _Draws:
    """Numbers from a key: raw Philox draws, whose stream NumPy keeps the same for ever (NEP 19)."""

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=key)

    def unit(self) -> float:
        """In [0, 1)."""
        return float(int(self._bits.random_raw()) >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """In [low, high)."""
        return low + (high - low) * self.unit()


def _matrix(
    size: tuple[int, int], flip: float, zoom: float, turn: float, shear: float, shift: Sequence[float]
) -> NDArray[np.float64]:
    """Flipped, sheared, turned and zoomed about the middle, then shifted."""
    middle = np.array(size) / 2
    linear = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = zoom * linear @ np.array([[1, math.tan(shear)], [0, 1]]) @ np.diag([flip, 1.0])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle + shift - linear @ middle
    return matrix


def _rectangle(size: tuple[int, int], draws: _Draws) -> tuple[int, int, int, int]:
    """A rectangle of 2 to 15 % of the area, of any place and of proportions up to 3."""
    share, proportion = draws.between(0.02, 0.15), math.exp(draws.between(-math.log(3), math.log(3)))
    across, down = (
        max(1, min(side, round(side * math.sqrt(share * ratio))))
        for side, ratio in zip(size, (proportion, 1 / proportion), strict=True)
    )
    left, top = (int(draws.unit() * (side - part + 1)) for side, part in zip(size, (across, down), strict=True))
    return left, top, left + across, top + down


def _cut(
    box: tuple[float, float, float, float], frame: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    return max(box[0], frame[0]), max(box[1], frame[1]), min(box[2], frame[2]), min(box[3], frame[3])


def _area(box: tuple[float, float, float, float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
