"""Heat maps of anomalies: written as PNG, and drawn over their image."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIDDLE = 128
"""Level of the limit in a heat map; twice the limit is white."""
SEEN = 96
"""Level from which on heat is drawn over an image: usual places are some way from any other, too."""
_HOT, _MARKED = np.array([213, 94, 0], np.float32), np.array([0, 114, 178], np.float32)


def heat_png(heat: NDArray[np.float32], limit: float) -> str:
    """Return a map (height, width) as a PNG in base64: 8 bits of grey, 0 as usual, 128 at the limit."""
    scale = MIDDLE / limit if limit > 0 else 0.0
    file = io.BytesIO()
    Image.fromarray(np.clip(heat * scale, 0, 255).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def drawn_heat(image: Image.Image, coded: str) -> Image.Image | None:
    """Return the image in grey under the heat map of a PNG in base64; None if that is not one of its size."""
    try:
        heat = Image.open(io.BytesIO(base64.b64decode(coded, validate=True)), formats=["PNG"])
        if heat.size != image.size:
            return None
        levels = np.asarray(heat.convert("L"), np.float32)
    except (OSError, ValueError):
        return None
    over = np.clip((levels - SEEN) / SEEN, 0, 0.8)[..., None]
    return _mixed(image, over, _HOT)


def drawn_outline(image: Image.Image, marked: NDArray[Any] | None) -> Image.Image:
    """Return the image in grey with the marked pixels tinted; without a mask, the image alone."""
    if marked is None or marked.shape != (image.height, image.width):
        return image
    return _mixed(image, np.where(marked, 0.6, 0.0)[..., None], _MARKED)


def _mixed(image: Image.Image, over: NDArray[np.floating], colour: NDArray[np.float32]) -> Image.Image:
    shade = np.asarray(image.convert("L").convert("RGB"), np.float32)
    return Image.fromarray((shade * (1 - over) + colour * over).round().astype(np.uint8))
