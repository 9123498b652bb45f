"""The size that a picture's file states, read from a few fixed places of nine formats; nothing is decoded.

A file may state anything: whoever decodes it holds it to what it stated.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator

from regraft.media.pixels.cost import jpeg_size

Size = tuple[int, int]
_TIFF_ENTRIES = 4096
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT = 256, 257
_SEARCHED = 1 << 20
"""Bytes at the start in which the boxes of JPEG 2000 and AVIF are searched."""
_J2K_BOX = re.compile(rb"\0{3}\x16ihdr(.{4})(.{4})", re.DOTALL)
_J2K_CODE = re.compile(rb"\xff\x4f\xff\x51.{4}(.{16})", re.DOTALL)
_AVIF_BOX = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)


def stated_size(content: bytes) -> Size | None:
    """Return the largest (width, height) that a file states, not turned; None where it states none."""
    try:
        largest = max(_sizes(content), key=math.prod, default=(0, 0))
    except (struct.error, OverflowError):  # a file that is cut, or whose offsets are no places in any file
        return None
    return largest if min(largest) > 0 else None


def _sizes(content: bytes) -> Iterator[Size]:
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        yield struct.unpack_from(">II", content, 16)
    elif content.startswith((b"GIF87a", b"GIF89a")):
        yield struct.unpack_from("<HH", content, 6)
    elif content.startswith(b"BM"):
        yield from _bmp(content)
    elif content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        yield from _tiff(content)
    elif content.startswith(b"\xff\xd8\xff"):
        yield jpeg_size(content)
    elif content[4:8] == b"ftyp":
        for found in _AVIF_BOX.finditer(content, 0, _SEARCHED):
            yield int.from_bytes(found[1]), int.from_bytes(found[2])
    else:
        yield from _jpeg_2000(content)


def _bmp(content: bytes) -> Iterator[Size]:
    if int.from_bytes(content[14:18], "little") == 12:  # the header of OS/2
        yield struct.unpack_from("<HH", content, 18)
        return
    width, height = struct.unpack_from("<ii", content, 18)
    yield abs(width), abs(height)


def _tiff(content: bytes) -> Iterator[Size]:
    """Read the first directory of a TIFF or BigTIFF."""
    order = "<" if content.startswith(b"II") else ">"
    big = 43 in struct.unpack_from(order + "H", content, 2)
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), content, at)
    sides: dict[int, int] = {}
    for number in range(min(count, _TIFF_ENTRIES)):
        entry = at + (8 + 20 * number if big else 2 + 12 * number)
        tag, kind = struct.unpack_from(order + "HH", content, entry)
        if tag in (_WIDTH, _HEIGHT) and kind in _TIFF_TYPES:
            (sides[tag],) = struct.unpack_from(order + _TIFF_TYPES[kind], content, entry + (12 if big else 8))
    if len(sides) == 2:
        yield sides[_WIDTH], sides[_HEIGHT]


def _jpeg_2000(content: bytes) -> Iterator[Size]:
    if found := _J2K_BOX.search(content, 0, _SEARCHED):
        yield int.from_bytes(found[2]), int.from_bytes(found[1])
    if found := _J2K_CODE.search(content, 0, _SEARCHED):
        right, down, left, top = struct.unpack(">4I", found[1])
        yield max(0, right - left), max(0, down - top)
