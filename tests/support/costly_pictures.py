"""Pictures whose header or structure makes them cost more than their size says, and harmless ones, by a seed."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

SAVED = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")


def harmless(draw: random.Random) -> bytes:
    """Return a small picture of a format that requests may hold."""
    size = (draw.randint(8, 60), draw.randint(8, 60))
    return saved(noise(size, draw), draw.choice(SAVED))


def noise(size: tuple[int, int], draw: random.Random) -> Image.Image:
    """Return noise of that width and height."""
    made = np.random.default_rng(draw.randrange(1 << 30)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(made)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def thin(draw: random.Random) -> bytes:
    """Return a picture of one pixel by many: 471 bytes that a processor makes gigabytes of."""
    long = draw.choice([2000, 8000, 60_000])
    size = draw.choice([(1, long), (long, 1), (2, long)])
    return saved(Image.new("RGB", size, "red"), draw.choice(("PNG", "TIFF", "BMP")))


def scans(draw: random.Random) -> bytes:
    """Return a progressive JPEG with its last scan written many thousand times."""
    body = saved(noise((64, 48), draw), "JPEG", progressive=True)
    at = body.rindex(b"\xff\xda")
    return body[:at] + body[at:-2] * draw.choice([200, 5000, 50_000]) + body[-2:]


def large_scans(draw: random.Random) -> bytes:
    """Return a JPEG whose header says that each of its scans passes over 25 megapixels."""
    return repeated_scan((5000, 4900, draw.choice([60, 90])))


def segments(draw: random.Random) -> bytes:
    """Return a JPEG with a great many empty notes."""
    body = saved(noise((16, 16), draw), "JPEG")
    return body[:2] + b"\xff\xfe\x00\x02" * draw.choice([20_000, 500_000]) + body[2:]


def tiles(draw: random.Random) -> bytes:
    """Return a small TIFF in one tile of hundreds of megapixels."""
    side = draw.choice([16_384, 32_768, 65_520])
    tags = [(256, 32), (257, 32), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side)]
    packed = zlib.compress(bytes(1 << 16))
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries += [struct.pack("<HHII", 324, 4, 1, 8), struct.pack("<HHII", 325, 4, 1, len(packed))]
    head = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed
    return head + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def metadata(draw: random.Random) -> bytes:
    """Return a PNG with many packed texts or profiles, each of which unpacks to a megabyte or more."""
    body = saved(noise((16, 16), draw), "PNG")
    bomb = zlib.compress(bytes(draw.choice([1 << 20, 1 << 26])), 9)
    kind, head = draw.choice([(b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")])
    return body[:33] + chunk(kind, head + bomb) * draw.choice([1, 80]) + body[33:]


def chunks(draw: random.Random) -> bytes:
    """Return a PNG of a great many empty chunks."""
    body = saved(noise((16, 16), draw), "PNG")
    return body[:33] + chunk(b"teSt", b"") * draw.choice([100_000, 300_000]) + body[33:]


def large(draw: random.Random) -> bytes:
    """Return a picture of one colour with more pixels than a request may have."""
    return flat("L", (draw.choice([12_000, 6_000]), 11_000), draw.choice(("PNG", "GIF", "TIFF", "WEBP")))


@lru_cache
def flat(mode: str, size: tuple[int, int], kind: str) -> bytes:
    """Return a small file of one colour and that many pixels."""
    options = {"TIFF": {"compression": "tiff_adobe_deflate"}, "WEBP": {"lossless": True, "quality": 0}}
    size = (min(size[0], 16_000), min(size[1], 6_000)) if kind == "WEBP" else size
    return saved(Image.new(mode, size), kind, **options.get(kind, {}))


def frames(draw: random.Random) -> bytes:
    """Return an animation of many frames, of which the first is read."""
    return animation(draw.choice(("GIF", "PNG", "WEBP", "TIFF", "AVIF")))


@lru_cache
def animation(kind: str) -> bytes:
    """Return 60 frames of that format."""
    images = [Image.new("RGB", (200, 200), (n % 256, n // 256, 0)) for n in range(60)]
    return saved(images[0], kind, save_all=True, append_images=images[1:])


def false_size(draw: random.Random) -> bytes:
    """Return an AVIF whose header says another size than its frame has: far smaller, or far larger."""
    side, said = draw.choice([(4096, 32), (2048, 64), (64, 4000), (64, 60_000)])
    body = bytearray(avif(side))
    struct.pack_into(">II", body, body.index(b"ispe") + 8, said, said)
    return bytes(body)


@lru_cache
def avif(side: int) -> bytes:
    """Return a square AVIF of one colour."""
    return saved(Image.new("RGB", (side, side), "red"), "AVIF", speed=10, quality=10)


def layers(draw: random.Random) -> bytes:
    """Return a JPEG 2000 whose header says that it has a great many layers, tiles or pixels."""
    body = bytearray(saved(noise((64, 48), draw), "JPEG2000"))
    size, coding = body.index(b"\xff\x51"), body.index(b"\xff\x52")
    change = draw.choice(("layers", "tiles", "pixels", "levels"))
    if change == "layers":
        struct.pack_into(">H", body, coding + 6, 65_535)
    elif change == "tiles":
        struct.pack_into(">II", body, size + 22, 1, 1)
    elif change == "levels":
        body[coding + 9] = 32
    else:
        struct.pack_into(">II", body, size + 6, *draw.choice([(5000, 5000), (60_000, 60_000)]))
    return bytes(body)


def slow_scans(draw: random.Random) -> bytes:
    """Return a JPEG of large scans that are just few enough, which takes seconds."""
    return repeated_scan(draw.choice([(2000, 3000, 90), (5000, 4900, 12), (5000, 4900, 40)]))


@lru_cache
def repeated_scan(shape: tuple[int, int, int]) -> bytes:
    """Return a JPEG whose header says that height and width, and that has its last scan that many times."""
    body = bytearray(saved(noise((16, 16), random.Random(0)), "JPEG", progressive=True))
    struct.pack_into(">HH", body, body.index(b"\xff\xc2") + 5, *shape[:2])
    last = bytes(body).rindex(b"\xff\xda")
    return bytes(body[:last]) + bytes(body[last:-2]) * shape[2] + bytes(body[-2:])


def most_pixels(draw: random.Random) -> bytes:
    """Return a small file of nearly as many pixels as a request may have."""
    kind = draw.choice(("PNG", "WEBP", "TIFF", "JPEG", "JPEG2000", "BMP"))
    return flat("L" if kind == "BMP" else "RGB", (2600, 2600) if kind == "BMP" else (4900, 4900), kind)


def notes(draw: random.Random) -> bytes:
    """Return a GIF with megabytes of comments, which Pillow collects in quadratic time."""
    body = saved(noise((16, 16), draw).quantize(16), "GIF")
    at = 13 + 3 * 2 ** ((body[10] & 7) + 1)
    return body[:at] + b"!\xfe" + (b"\xff" + b"a" * 255) * draw.choice([6000, 20_000]) + b"\0" + body[at:]


def damaged(draw: random.Random) -> bytes:
    """Return a harmless picture with bytes changed, or cut."""
    body = bytearray(harmless(draw))
    for _ in range(draw.randint(1, 8)):
        body[draw.randrange(len(body))] = draw.randrange(256)
    return bytes(body[: draw.randint(1, len(body))] if draw.random() < 0.3 else body)


COSTLY: tuple[Callable[[random.Random], bytes], ...] = (thin, scans, large_scans, segments, tiles, chunks, large)
"""Makers of pictures that are always refused."""
DOUBTFUL: tuple[Callable[[random.Random], bytes], ...] = (
    *(metadata, frames, notes, damaged, false_size, layers, slow_scans, most_pixels),
)
"""Makers of pictures that are refused or answered."""


def ordinary(draw: random.Random) -> bytes:
    """Return a photo of 2 megapixels: soft shapes and some noise."""
    return photo(draw.randrange(8))


@lru_cache
def photo(number: int) -> bytes:
    """Return one of a few photos as a JPEG."""
    draw = random.Random(number)
    soft = noise((16, 12), draw).resize((1600, 1200), Image.Resampling.BICUBIC)
    return saved(Image.blend(soft, noise((1600, 1200), draw), 0.1), "JPEG", quality=88)


GENERATED: tuple[Callable[[random.Random], bytes], ...] = (harmless, *COSTLY, *DOUBTFUL)
"""Makers of pictures of every kind."""
