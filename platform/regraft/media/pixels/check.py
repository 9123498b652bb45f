"""The check of a picture's content: all of it is decoded once, so that no damage is met in the middle of a run."""

from __future__ import annotations

import io

import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from regraft.errors import DataError
from regraft.media.pixels.cost import CostlyPicture, refuse_shape, refuse_structure
from regraft.media.pixels.images import FORMATS

METHOD = f"3, Pillow {PIL.__version__}"
"""The number of this check and the decoder: another one makes known files be checked again."""


def damage(content: bytes) -> str:
    """Return why a picture cannot be decoded, as the rest of a sentence about it; an empty text where it can.

    The header was found to be that of a picture of a safe size before. Only the first frame is decoded. Called in any
    thread. Raises DataError where memory is short, which says nothing about the picture.
    """
    try:
        refuse_structure(content, "it")
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            refuse_shape(image, "it")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode not in ("RGB", "F") and not image.mode.startswith("I"):  # those are converted by their levels
                image.convert("RGB")
    except CostlyPicture as error:
        return f"cannot be used: {error.message}"
    except MemoryError:
        raise DataError("there is too little free memory to decode a picture: free some and try again") from None
    except UnidentifiedImageError:
        return f"is not an image of a format that is read ({', '.join(FORMATS)}): save it as one of them"
    except Exception as error:  # Pillow's readers raise nearly every kind for bytes that they do not expect
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"is damaged and cannot be decoded ({reason}): repair it or leave the row out"
    return ""
