"""The process that decodes pictures whose header does not show what they cost: `python -m` this module, niceness."""

from __future__ import annotations

import io

from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError

from regraft.errors import DataError
from regraft.media.apart.jobs import CHECK, COSTLY, DAMAGED, DONE, MEMORY, UNKNOWN, serve_jobs
from regraft.media.pixels.check import damage
from regraft.media.pixels.cost import CostlyPicture
from regraft.media.pixels.images import PHOTOMETRIC, REQUEST_FORMATS, is_deep, opened_image

_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def answer(asked: bytes, content: bytes, pixels: int) -> tuple[bytes, bytes]:
    """Do one job: return the kind of the answer and its text or file."""
    try:
        if asked == CHECK:
            return DONE, damage(content).encode()
        return DONE, _converted(content, pixels)
    except MemoryError:
        return MEMORY, b""
    except UnidentifiedImageError:
        return UNKNOWN, b""
    except CostlyPicture as error:
        return COSTLY, error.message.encode()
    except DataError as error:
        return (MEMORY, b"") if "free memory" in error.message else (DAMAGED, error.message.encode())
    except Exception as error:  # Pillow's readers raise nearly every kind for bytes that they do not expect
        reason = " ".join(str(error).split()) or type(error).__name__
        return DAMAGED, f"image in this row is not readable: {reason}".encode()


def _converted(content: bytes, pixels: int) -> bytes:
    """Return the upright picture as a file whose header shows what it costs; greys and levels stay as they are."""
    Image.open(io.BytesIO(content), formats=REQUEST_FORMATS).close()
    with opened_image(content) as image:
        if image.width * image.height > pixels:
            found = f"{image.width} x {image.height} pixels, more than its file states or a request may hold"
            raise CostlyPicture(f"image in this row has {found}: save it again")
        image.load()
        if is_deep(image.mode) and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:
            return content  # black and white are exchanged after the levels, and this format says so
        ImageOps.exif_transpose(image, in_place=True)
    return _saved(image)


def _saved(upright: Image.Image) -> bytes:
    file = io.BytesIO()
    if upright.mode in _AS_PNG:
        upright.info.pop("icc_profile", None)
        transparency = {"transparency": upright.info["transparency"]} if "transparency" in upright.info else {}
        Image.Image.save(upright, file, "PNG", compress_level=1, exif=b"", **transparency)
    elif is_deep(upright.mode):
        upright.copy().save(file, "TIFF")  # a copy has no tags of the file that it was read from
    else:
        upright.convert("RGB").save(file, "PNG", compress_level=1, exif=b"")
    return file.getvalue()


if __name__ == "__main__":
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    serve_jobs(answer)
