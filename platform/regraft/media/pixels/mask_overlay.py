"""Masks drawn over their image: the true classes and the predicted ones, in the same colours."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.contracts import Answer
from regraft.contracts.views import Thumbnail, ThumbnailMaker
from regraft.errors import DataError
from regraft.media.pixels.images import class_numbers

_COLOURS = (
    *((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66)),
    *((148, 103, 189), (140, 86, 75), (23, 190, 207), (188, 189, 34), (214, 39, 40)),
)
"""The palette of Okabe and Ito, which colour-blind people can distinguish; then others."""
_MAX_CLASSES = 12

Legend = tuple[tuple[str, str], ...]


def mask_overlays(
    image: Image.Image, mask: Any, answer: Answer, *, thumbnails: ThumbnailMaker, labels: tuple[str, ...]
) -> tuple[Thumbnail | None, Thumbnail | None, Legend]:
    """Draw the true mask (height, width) and the answer's over the image; return both and the colours of the classes.

    Class 0 is usually the background, and stays without colour.
    """
    masks = (mask, predicted_classes(answer, labels))
    present = {int(number) for classes in masks if classes is not None for number in np.unique(classes)}
    numbers = [number for number in sorted(present) if 0 < number < len(labels)][:_MAX_CLASSES]
    drawn = [None if classes is None else thumbnails.add(overlaid(image, classes, numbers)) for classes in masks]
    legend = tuple((labels[number], "#{:02x}{:02x}{:02x}".format(*colour(number))) for number in numbers)
    return drawn[0], drawn[1], legend


def predicted_classes(answer: Answer, labels: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Return the class numbers (height, width) of an answer: `map`, one PNG, or `segments`, one PNG for each class."""
    if "map" in answer:
        return _pixels(answer["map"])
    found: NDArray[np.int64] | None = None
    for segment in answer.get("segments", ()):
        pixels = _pixels(segment.get("mask"))
        if pixels is None or segment.get("label") not in labels:
            continue
        found = np.zeros(pixels.shape, np.int64) if found is None else found
        found[pixels > 0] = labels.index(segment["label"])
    return found


def _pixels(coded: Any) -> NDArray[np.int64] | None:
    """Decode the class numbers of a PNG in base64; None if it is not one."""
    try:
        return class_numbers(base64.b64decode(coded, validate=True)).astype(np.int64)
    except (DataError, TypeError, ValueError):
        return None


def overlaid(image: Image.Image, classes: NDArray[np.int64], numbers: Sequence[int]) -> Image.Image:
    """Return the image in grey, with the pixels of the classes `numbers` in their colours."""
    shade = np.asarray(image.convert("L").convert("RGB"), np.float32)
    if classes.shape != shade.shape[:2]:
        resized = Image.fromarray(classes.astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
        classes = np.asarray(resized).astype(np.int64)
    for number in numbers:
        where = classes == number
        shade[where] = 0.35 * shade[where] + 0.65 * np.array(colour(number), np.float32)
    return Image.fromarray(shade.round().astype(np.uint8))


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class as RGB, the same in every image."""
    return _COLOURS[number % len(_COLOURS)]
