"""Depth maps as pictures for people: near is bright, far is dark, grey has no depth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_RAMP = np.array(((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)), np.float64)
"""Colours from far to near, those of the map viridis: their brightness grows evenly."""
_NOTHING = (128, 128, 128)


def coloured_depth(nearness: NDArray[Any], valid: NDArray[np.bool_]) -> Image.Image:
    """Return an RGB picture of numbers (height, width) from 0, far, to 1, near."""
    place = np.nan_to_num(nearness).clip(0, 1) * (len(_RAMP) - 1)
    below = np.minimum(place.astype(np.int64), len(_RAMP) - 2)
    share = (place - below)[..., None]
    pixels = _RAMP[below] * (1 - share) + _RAMP[below + 1] * share
    pixels[~valid] = _NOTHING
    return Image.fromarray(pixels.round().astype(np.uint8))


def nearness_of(values: NDArray[Any], low: float, high: float, *, inverse: bool) -> NDArray[np.float64]:
    """Return distances from `low` to `high` as numbers from 1, near, to 0, far; `inverse` values grow towards near."""
    share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return share if inverse else 1 - share


def depth_legend(low: float, high: float, *, inverse: bool) -> tuple[tuple[str, str], ...]:
    """Return what the brightest and the darkest colour stand for, and the colour of pixels without depth."""
    names = ("near", "far") if inverse else (f"{low:.4g}", f"{high:.4g}")
    colours = [tuple(int(part) for part in colour) for colour in (_RAMP[-1], _RAMP[0])]
    written = [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(names, colours, strict=True)]
    return (*written, ("no depth", "#{:02x}{:02x}{:02x}".format(*_NOTHING)))
