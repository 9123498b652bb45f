"""An image as a row holds it: by reference, or by the bytes of a file where no file of its own exists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

ARROW = pa.struct([("path", pa.string()), ("bytes", pa.binary())])
"""How a snapshot keeps an image; the layout that the `datasets` library writes too."""


def kept(value: str | bytes) -> dict[str, str | bytes | None]:
    """A path, a URL or the bytes of a file as ARROW holds them."""
    return {"path": None, "bytes": value} if isinstance(value, bytes) else {"path": value, "bytes": None}


def given(value: Mapping[str, Any]) -> str | bytes:
    """The reference or the bytes that `kept` was given."""
    found: str | bytes = value["path"] if value["bytes"] is None else value["bytes"]
    return found


def identity(value: str | bytes) -> list[str | int]:
    """What the fingerprint knows an image by: its name and size in bytes, wherever its folder lies; or its content."""
    if isinstance(value, bytes):
        return [hashlib.sha256(value).hexdigest(), len(value)]
    return [os.path.basename(value), os.path.getsize(value)]
