"""The colours of a picture as a histogram, from which a baseline without a base answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LEVELS = 6
"""Levels of each of red, green and blue; a bin is a combination of three."""
GREYS = 32
"""Levels of grey, which tell pictures without colours apart."""
_SIDE = 128
"""Larger pictures are made this small first, by averaging."""


def colour_histogram(image: Image.Image) -> NDArray[np.float64]:
    """Return the square roots of the shares of colours and of greys, (bins,); their squares sum to 1.

    Roots of shares compare by the Hellinger distance, in which one large area of background does not decide alone.
    """
    small = image if max(image.size) <= _SIDE else image.resize(_within(*image.size), Image.Resampling.BOX)
    pixels = np.asarray(small.convert("RGB"), dtype=np.int64).reshape(-1, 3)
    levels = pixels * LEVELS // 256
    combined = (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]
    colours = np.bincount(combined, minlength=LEVELS**3)
    greys = np.bincount(pixels.sum(1) * GREYS // 766, minlength=GREYS)
    return np.sqrt(np.concatenate([colours, greys]) / (2.0 * len(pixels)))


def _within(width: int, height: int) -> tuple[int, int]:
    """Return a size of the same shape whose longer side is the largest that is read."""
    scale = _SIDE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
