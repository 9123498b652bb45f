"""The arguments of an image processor for an image; large ones are handed over, and not held twice."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from PIL import Image

LARGE = 4_000_000
"""Pixels from which on an image is handed over."""
_LINES = 256


def processor_input(image: Image.Image, processor: Any) -> dict[str, Any]:
    """Return `images` and its format. A large image is closed, and only its size may be asked for then.

    A processor that takes no format, as timm's, gets the image itself.

    A processor makes an array of an image, and an image of the array to resize it. Three copies of a large one are more
    than all else that an answer takes.
    """
    if image.width * image.height <= LARGE or image.mode != "RGB" or not _takes_a_format(processor):
        return dict(images=image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _LINES):
        bottom = min(top + _LINES, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    image.close()
    return dict(images=pixels, input_data_format="channels_last")


def _takes_a_format(processor: Any) -> bool:
    taken = inspect.signature(processor.preprocess).parameters
    return "input_data_format" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())
