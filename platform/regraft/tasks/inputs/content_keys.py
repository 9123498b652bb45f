"""Numbers that are equal for equal contents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from regraft.media.pixels.images import open_rgb


def text_key(text: str) -> int:
    """Return a number of 63 bits that equal texts share."""
    return _number(text.encode(errors="surrogatepass"))


def picture_key(value: Any) -> int:
    """Return a number of 63 bits that equal files share, or pictures in memory of equal pixels."""
    if isinstance(value, str):
        return _number(Path(value).read_bytes())
    return _number(value if isinstance(value, bytes) else _pixels(value))


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def _pixels(value: Any) -> bytes:
    image = open_rgb(value)
    return f"{image.size}".encode() + image.tobytes()
