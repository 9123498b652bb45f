"""The process that decodes pictures whose header does not show what they cost: `python -m` this module, niceness.

It reads jobs from its standard input and answers on its standard output until the input ends. A job that takes too long
ends the process, by a timer of its own; one that takes too much memory is answered as such.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import sys

from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError

from regraft.errors import DataError
from regraft.media.pixels.check import damage
from regraft.media.pixels.cost import CostlyPicture
from regraft.media.pixels.freed_memory import give_back_memory
from regraft.media.pixels.images import PHOTOMETRIC, REQUEST_FORMATS, is_deep, opened_image

JOB = struct.Struct("<cdQQQ")
"""A job: what is asked, seconds of computing, bytes of memory, most pixels, and the length of the file that follows."""
ANSWER = struct.Struct("<cQ")
"""An answer: its kind, and the length of what follows."""
CHECK, CONVERT = b"c", b"p"
DONE, COSTLY, DAMAGED, MEMORY, UNKNOWN = b"d", b"x", b"b", b"m", b"u"
NICE = 10
"""How far a process that serves requests stands back: what is answered beside it comes first."""
PATIENCE = 3
"""How many times its seconds of computing a picture may take on a busy machine."""
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


def main() -> None:
    """Answer jobs until the input ends."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    os.nice(int(sys.argv[1]))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    while len(head := source.read(JOB.size)) == JOB.size:
        asked, seconds, memory, pixels, length = JOB.unpack(head)
        content = source.read(length)
        most = _address_space() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds)
        kind, reply = answer(asked, content, pixels)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.write(ANSWER.pack(kind, len(reply)))
        sink.write(reply)
        sink.flush()
        del content, reply
        give_back_memory()


def _address_space() -> int:
    """Return the bytes of this process's address space."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
