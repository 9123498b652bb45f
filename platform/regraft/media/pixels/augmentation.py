"""Random changes of training images, with their boxes and masks.

Pixels are moved and coloured by Pillow, which has the operations of RandAugment (Cubuk et al., 2019), works on bytes
and draws no random numbers. All choices derive from one 64-bit number: they depend neither on torch's generators, which
dropout uses, nor on the order in which rows are read.
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

Level = Literal["light", "strong", "affine"]
Boxes = Sequence[Sequence[float]]

VISIBLE = 0.3
"""Least share of a box's area that must stay visible for the box to be kept."""
GREY = 128
_SIDES = frozenset({"left", "right", "l", "r", "clockwise", "counterclockwise", "anticlockwise"})


@dataclass(frozen=True, slots=True)
class Strength:
    """Ranges of the random changes of a level."""

    zoom: tuple[float, float]
    """Least and largest factor; above 1 a random part is visible, below 1 the image is placed at random on grey."""
    degrees: float
    """Largest rotation, and shear, to either side."""
    colour: float
    """Largest change of brightness, contrast and saturation, as a share."""
    operations: int
    """Number of further colour operations, as in RandAugment."""
    erased: float
    """Probability that a rectangle is painted over (random erasing: Zhong et al., 2017)."""
    shift: float = 0.0
    """Largest shift to either side, as a share of the image's, besides that of the visible part."""
    mirrors: bool = True
    """Whether images are flipped left to right, where that keeps their labels."""
    grey: bool = True
    """Whether what comes from outside is grey; else it has the colour that is most frequent on the image's border."""


STRENGTHS: dict[Level, Strength] = {
    "light": Strength(zoom=(1.0, 1.25), degrees=0, colour=0.15, operations=0, erased=0),
    "strong": Strength(zoom=(0.75, 1.6), degrees=12, colour=0.3, operations=2, erased=0.25),
    "affine": Strength(
        zoom=(0.85, 1.2), degrees=10, colour=0, operations=0, erased=0, shift=0.06, mirrors=False, grey=False
    ),
}

_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, _: ImageOps.autocontrast(image),
    lambda image, _: ImageOps.equalize(image),
    lambda image, amount: ImageOps.posterize(image, 7 - int(4 * amount)),
    lambda image, amount: ImageOps.solarize(image, 255 - int(128 * amount)),
    lambda image, amount: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * amount),
)
"""Colour operations; the second argument is an amount in [0, 1)."""
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True)
class Augmentation:
    """One random change, of an image and of boxes and masks in it."""

    size: tuple[int, int]
    """(width, height) of the image, before and after."""
    matrix: NDArray[np.float64]
    """(3, 3): maps a point of the image to its new place, in pixels from the outer corner of the first one."""
    factors: tuple[float, ...]
    """Factors of brightness, contrast and saturation."""
    operations: tuple[tuple[int, float], ...]
    """Colour operations by their index, each with its amount."""
    erased: tuple[int, int, int, int] | None
    """Corners (left, top, right, bottom) of the rectangle that is painted over; None for no rectangle."""
    paint: tuple[int, int, int]
    """RGB colour of that rectangle."""
    grey: bool = True
    """Whether what comes from outside is grey, and not as the border is."""

    @classmethod
    def drawn(cls, level: Level, draw: int, size: tuple[int, int], *, mirror: bool = True) -> Augmentation:
        """Return the change that the number `draw` determines for an image of that (width, height).

        `mirror` is whether half of the images are flipped left to right; see `mirrors`.
        """
        strength, draws = STRENGTHS[level], _Draws(draw)
        flip = -1.0 if mirror and strength.mirrors and draws.unit() < 0.5 else 1.0
        zoom = math.exp(draws.between(math.log(strength.zoom[0]), math.log(strength.zoom[1])))
        turn, shear = (math.radians(draws.between(-strength.degrees, strength.degrees)) for _ in range(2))
        # The visible part stays within the image, or the image within the visible part.
        most = [abs(zoom - 1) * side / 2 + strength.shift * side for side in size]
        shift = [draws.between(-limit, limit) for limit in most]
        factors = tuple(1 + draws.between(-strength.colour, strength.colour) for _ in _ENHANCERS)
        operations = tuple((int(draws.unit() * len(_OPERATIONS)), draws.unit()) for _ in range(strength.operations))
        erased = _rectangle(size, draws) if draws.unit() < strength.erased else None
        paint = int(draws.unit() * 256), int(draws.unit() * 256), int(draws.unit() * 256)
        matrix = _Motion(flip, zoom, turn, shear).matrix(size, shift)
        return cls(size, matrix, factors, operations, erased, paint, strength.grey)

    def in_place(self) -> Augmentation:
        """Return the same change without moving, turning or zooming."""
        return replace(self, matrix=np.eye(3))

    def image(self, image: Image.Image) -> Image.Image:
        """Return the changed RGB image, of the same size."""
        outside = (GREY, GREY, GREY) if self.grey else border_colour(image)
        image = self._moved(image, Image.Resampling.BILINEAR, outside)
        for enhancer, factor in zip(_ENHANCERS, self.factors, strict=True):
            image = enhancer(image).enhance(factor) if factor != 1 else image
        for number, amount in self.operations:
            image = _OPERATIONS[number](image, amount)
        if self.erased is not None:
            image.paste(self.paint, self.erased)
        return image

    def mask(self, mask: NDArray[np.int32], ignored: int) -> NDArray[np.int32]:
        """Return class numbers (height, width) moved like the image, without interpolation; `ignored` outside of it."""
        moved = self._moved(Image.fromarray(mask), Image.Resampling.NEAREST, ignored)
        if self.erased is not None:
            moved.paste(ignored, self.erased)
        return np.asarray(moved, dtype=np.int32)

    def boxes(self, boxes: Boxes) -> tuple[list[list[float]], list[int]]:
        """Return boxes [x, y, width, height] that stay visible, cut at the border, and their indices among `boxes`.

        A turned box becomes the upright one around it. A box is dropped if less than VISIBLE of its area is visible.
        """
        kept: list[list[float]] = []
        numbers: list[int] = []
        for number, (left, top, across, down) in enumerate(boxes):
            corners = self._around(left, top, left + across, top + down)
            visible = _intersection(corners, (0, 0, *self.size))
            painted = 0.0 if self.erased is None else _area(_intersection(visible, self.erased))
            if _area(visible) - painted >= VISIBLE * _area(corners) and _area(visible) > 0:
                kept.append([visible[0], visible[1], visible[2] - visible[0], visible[3] - visible[1]])
                numbers.append(number)
        return kept, numbers

    def _moved(self, image: Image.Image, resample: Image.Resampling, fill: Any) -> Image.Image:
        # Pillow takes the inverse map, in pixels from the outer corner of the first one, like boxes.
        inverse = np.linalg.inv(self.matrix)[:2].ravel().tolist()
        return image.transform(self.size, Image.Transform.AFFINE, inverse, resample=resample, fillcolor=fill)

    def _around(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        """Return the corners of the upright box around the moved one."""
        (left, top), (right, bottom) = (
            (min(max(x, 0), self.size[0]), min(max(y, 0), self.size[1])) for x, y in ((left, top), (right, bottom))
        )
        points = self.matrix @ np.array([[left, right, right, left], [top, top, bottom, bottom], [1, 1, 1, 1]])
        return tuple(map(float, (*points[:2].min(1), *points[:2].max(1))))  # type: ignore[return-value]


def border_colour(image: Image.Image) -> tuple[int, ...]:
    """Return the most frequent colour of an RGB image's outermost pixels, the smallest of equals."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.int64)
    colours, counts = np.unique(border @ np.array([1 << 16, 1 << 8, 1]), return_counts=True)
    colour = int(colours[counts.argmax()])
    return colour >> 16, colour >> 8 & 255, colour & 255


@lru_cache(maxsize=16)
def mirrors(labels: tuple[str, ...]) -> bool:
    """Return whether a mirrored image keeps its label: not if labels name sides (`turn left`) or are single characters.

    A mirrored 2 is no 2.
    """
    words = [re.findall(r"[a-z0-9]+", label.lower()) for label in labels]
    return not any(_SIDES.intersection(word) for word in words) and not any(
        len(word) == 1 and len(word[0]) == 1 for word in words
    )


class _Draws:
    """Random numbers from a key: raw Philox draws, whose stream NumPy guarantees to keep (NEP 19)."""

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=key)

    def unit(self) -> float:
        """Return a number in [0, 1)."""
        return float(int(self._bits.random_raw()) >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self.unit()


@dataclass(frozen=True)
class _Motion:
    """The movement of an image within its frame."""

    flip: float
    """-1 to mirror left and right, else 1."""
    zoom: float
    turn: float
    """Radians."""
    shear: float
    """Radians."""

    def matrix(self, size: tuple[int, int], shift: Sequence[float]) -> NDArray[np.float64]:
        """Return the map (3, 3) that flips, shears, turns and zooms about the middle, then shifts."""
        middle = np.array(size) / 2
        linear = np.array([[math.cos(self.turn), -math.sin(self.turn)], [math.sin(self.turn), math.cos(self.turn)]])
        linear = self.zoom * linear @ np.array([[1, math.tan(self.shear)], [0, 1]]) @ np.diag([self.flip, 1.0])
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = middle + shift - linear @ middle
        return matrix


def _rectangle(size: tuple[int, int], draws: _Draws) -> tuple[int, int, int, int]:
    """Return the corners of a random rectangle of 2 to 15 % of the area, with proportions up to 3."""
    share, proportion = draws.between(0.02, 0.15), math.exp(draws.between(-math.log(3), math.log(3)))
    across, down = (
        max(1, min(side, round(side * math.sqrt(share * ratio))))
        for side, ratio in zip(size, (proportion, 1 / proportion), strict=True)
    )
    left, top = (int(draws.unit() * (side - part + 1)) for side, part in zip(size, (across, down), strict=True))
    return left, top, left + across, top + down


def _intersection(
    box: tuple[float, float, float, float], frame: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    return max(box[0], frame[0]), max(box[1], frame[1]), min(box[2], frame[2]), min(box[3], frame[3])


def _area(box: tuple[float, float, float, float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
