"""What decoding a picture costs, read from its file's structure before any pixel is made, and what is allowed."""

from __future__ import annotations

import math
import re
import struct
from typing import Any, NamedTuple

from regraft.errors import DataError

ASPECT = 100
"""The largest ratio of a picture's sides: image processors resize the shorter one to a few hundred pixels."""
SCANS = 100
"""Most scans of a JPEG; cameras and converters write 10 or fewer."""
SCANNED_MEGAPIXELS = 1200
"""Most megapixels of all scans of a JPEG together: each scan passes over all pixels."""
SEGMENTS = 10_000
"""Most segments of a JPEG: notes, profiles, tables and scans."""
CHUNKS = 4_000
"""Most chunks of a PNG, besides one for each KiB of the file."""
PACKED_CHUNKS = 64
"""Most compressed texts and profiles of a PNG; each unpacks to 1 MiB at most."""
TILE_MEGAPIXELS = 4
"""Most megapixels of a tile of a TIFF that is larger than its picture."""
JPEG_2000_MEGAPIXELS = 12
"""Most megapixels of a JPEG 2000 in a request: its decoder takes 18 bytes for each pixel, others 4 to 9."""
PLAIN_SCANNED_MEGAPIXELS = 250
"""Most megapixels of all scans of a JPEG that is decoded in this process: a photo of 25 megapixels in 10 scans."""
PLAIN_PIECES = 1_000
"""Most segments or chunks, besides one for each KiB, of a picture that is decoded in this process: Python reads them
while other threads wait."""
PLAIN_PACKED = 16
"""Most compressed texts and profiles of a PNG that is decoded in this process."""
PLAIN_GIF = 1 << 20
"""Most bytes of a GIF that is decoded in this process: notes of larger ones take long to collect."""
_TILE_SIDES = (322, 323)
_NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SEARCHED = 1 << 16
"""Bytes that are searched at once: other threads wait meanwhile."""
_NO_LENGTH = (*range(0xD0, 0xD9), 0x01)
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")


class CostlyPicture(DataError):
    """A picture that takes too much to decode or to resize."""


class UnknownPicture(DataError):
    """A file of no format that is read."""


def refuse_structure(content: bytes, name: str) -> None:
    """Raise CostlyPicture for a JPEG of too many scans, and for too many pieces of a JPEG or PNG."""
    if content.startswith(_JPEG):
        _refuse_jpeg(_jpeg_pieces(content), name)
    elif content.startswith(_PNG):
        _refuse_png(_png_pieces(content), content, name)


def refuse_shape(image: Any, name: str) -> None:
    """Raise CostlyPicture for an opened image that is too thin to be resized, or has larger tiles than it needs."""
    short, long = sorted((image.width, image.height))
    if long > ASPECT * max(short, 1):
        raise CostlyPicture(
            f"{name} has {image.width} x {image.height} pixels; one side may be {ASPECT} times the other, since the "
            "shorter one is resized to the model's size: crop it"
        )
    tags = getattr(image, "tag_v2", None) or {}
    across, down = (tags.get(tag) for tag in _TILE_SIDES)
    if isinstance(across, int) and isinstance(down, int):
        most = max(TILE_MEGAPIXELS * 1_000_000, 2 * image.width * image.height)
        if across * down > most:
            raise CostlyPicture(
                f"{name} has tiles of {across} x {down} pixels for {image.width} x {image.height}; allowed are "
                f"{TILE_MEGAPIXELS} megapixels, or twice the image's: save it with smaller tiles"
            )


def refuse_hungry(content: bytes, pixels: int) -> None:
    """Raise CostlyPicture for a request's JPEG 2000 of so many pixels whose decoder takes too much memory."""
    if pixels > JPEG_2000_MEGAPIXELS * 1_000_000 and content.startswith(_JPEG_2000):
        raise CostlyPicture(
            f"image in this row is a JPEG 2000 of {pixels / 1e6:.1f} megapixels; at most {JPEG_2000_MEGAPIXELS} are "
            "allowed in this format, which takes much memory to decode: send it as a JPEG or PNG, or smaller"
        )


def is_plain(content: bytes) -> bool:
    """Return whether the header shows what decoding costs, so that it may be done in this process.

    Other formats say one size and decode another (AVIF), are decoded in Python, or are read by several decoders (TIFF).
    """
    if content.startswith(_JPEG):
        jpeg = _jpeg_pieces(content)
        return jpeg.scanned <= PLAIN_SCANNED_MEGAPIXELS * 1_000_000 and jpeg.segments <= PLAIN_PIECES
    if content.startswith(_PNG):
        png = _png_pieces(content)
        return png.packed <= PLAIN_PACKED and png.chunks <= PLAIN_PIECES + len(content) // 1024
    if content.startswith((b"GIF87a", b"GIF89a")):
        return len(content) <= PLAIN_GIF
    if content.startswith(b"BM") and len(content) > 34:
        return struct.unpack_from("<I", content, 30)[0] in (0, 3)  # pixels as they are
    webp = content.startswith(b"RIFF") and content[8:12] == b"WEBP"
    return webp or content.startswith((b"P5", b"P6"))


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Return the largest (width, height) that a JPEG states."""
    return _jpeg_pieces(content).size


class _JpegPieces(NamedTuple):
    """The pieces of a JPEG up to its end, or until one more would be too many."""

    scans: int
    segments: int
    size: tuple[int, int]
    """The largest (width, height) that a segment states."""

    @property
    def pixels(self) -> int:
        """Pixels of that size."""
        return self.size[0] * self.size[1]

    @property
    def scanned(self) -> int:
        """Pixels of all scans together."""
        return self.scans * self.pixels


class _PngPieces(NamedTuple):
    """The pieces of a PNG up to its end, or until one more would be too many."""

    chunks: int
    packed: int


def _jpeg_pieces(content: bytes) -> _JpegPieces:
    """Count the pieces of a JPEG; of a damaged one those before the damage, and the decoder says what it is."""
    scans, segments, size, at = 0, 0, (0, 0), 2
    while at + 4 <= len(content) and content[at] == 0xFF and scans <= SCANS and segments <= SEGMENTS:
        marker = content[at + 1]
        if marker == 0xD9:
            break
        segments += 1
        if marker == 0xFF or marker in _NO_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _SIZES and at + 9 <= len(content):
            height, width = struct.unpack_from(">HH", content, at + 5)
            size = max(size, (width, height), key=math.prod)
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
        if marker == 0xDA:
            scans, at = scans + 1, _next_marker(content, at)
    return _JpegPieces(scans, segments, size)


def _next_marker(content: bytes, at: int) -> int:
    """Return where the next marker after a scan is, or the end."""
    for start in range(at, len(content), _SEARCHED - 1):  # a marker may lie across two parts
        if found := _NEXT_MARKER.search(content, start, start + _SEARCHED):
            return found.start()
    return len(content)


def _refuse_jpeg(found: _JpegPieces, name: str) -> None:
    if found.scans > SCANS:
        raise CostlyPicture(f"{name} is a JPEG of more than {SCANS} scans, which are allowed: save it again")
    if found.scanned > SCANNED_MEGAPIXELS * 1_000_000:
        raise CostlyPicture(
            f"{name} is a JPEG of {found.pixels / 1e6:.0f} megapixels in {found.scans} scans; allowed are "
            f"{SCANNED_MEGAPIXELS} megapixels of all scans together: save it with fewer, or smaller"
        )
    if found.segments > SEGMENTS:
        raise CostlyPicture(f"{name} is a JPEG of more than {SEGMENTS:,} segments, which are allowed: save it again")


def _most_chunks(content: bytes) -> int:
    return CHUNKS + len(content) // 1024


def _png_pieces(content: bytes) -> _PngPieces:
    most, chunks, packed, at = _most_chunks(content), 0, 0, len(_PNG)
    while at + 8 <= len(content) and chunks <= most and packed <= PACKED_CHUNKS:
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        at, chunks, packed = at + 12 + length, chunks + 1, packed + (kind in (b"iCCP", b"zTXt", b"iTXt"))
        if kind == b"IEND":
            break
    return _PngPieces(chunks, packed)


def _refuse_png(found: _PngPieces, content: bytes, name: str) -> None:
    most = _most_chunks(content)
    if found.packed > PACKED_CHUNKS:
        raise CostlyPicture(f"{name} has more than {PACKED_CHUNKS} texts and profiles, which are allowed")
    if found.chunks > most:
        raise CostlyPicture(f"{name} is a PNG of more than {most:,} chunks, which are allowed: save it again")
