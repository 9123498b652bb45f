"""The check of a picture's content: all of it is decoded once, so that no damage is met in the middle of a run."""

from __future__ import annotations

import io
import warnings

import PIL
from PIL import Image, UnidentifiedImageError

from regraft.media.pixels.images import FORMATS

METHOD = f"decoded by Pillow {PIL.__version__}"
"""What `damage` depends on besides the content."""


def damage(content: bytes) -> str:
    """Return why a picture cannot be decoded, as the rest of a sentence about it; an empty text where it can.

    The header was found to be that of a picture of a safe size before. Only the first frame is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes about unusual metadata say nothing about the pixels
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                image.load()
    except UnidentifiedImageError:
        return f"is not an image of a format that is read ({', '.join(FORMATS)}): save it as one of them"
    except Exception as error:  # Pillow's readers raise nearly every kind for bytes that they do not expect
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"is damaged and cannot be decoded ({reason}): repair it or leave the row out"
    return ""
