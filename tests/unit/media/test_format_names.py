"""A request's picture that is not read is named by its format, without a decoder, with what to send instead."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from regraft.columns.image import ImageColumn
from regraft.contracts.column import BadCell
from regraft.media.pixels.format_names import unread_format
from regraft.media.pixels.images import FORMATS, REQUEST_FORMATS

WRITTEN = ("DIB", "ICO", "ICNS", "TGA", "PCX", "SGI", "DDS", "QOI", "IM", "XBM", "MSP", "BLP")
"""Formats that data may hold and Pillow writes."""
OTHERS = {
    b"\0\0\0\x18ftypheic": "HEIF",
    b"%PDF-1.7": "PDF",
    b"%!PS-Adobe-3.0 EPSF-3.0": "PostScript",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": "SVG",
    b"\xff\x0a\xfa\x7f": "JPEG XL",
    b"PK\x03\x04": "ZIP",
    b"\0" * 128 + b"DICM": "DICOM",
    b"8BPS\0\x01": "PSD",
    b"SIMPLE  =                    T": "FITS",
    b"/* XPM */": "XPM",
}


class Unbounded:
    def decode(self, count: int, described: str) -> None:
        """Allow everything."""


def content(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).convert({"XBM": "1", "MSP": "1", "BLP": "P"}.get(kind, "RGB")).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_format_that_data_may_hold_is_named(kind: str) -> None:
    assert kind in FORMATS and kind not in REQUEST_FORMATS
    problem = unread_format(content(kind), "PNG")
    assert f"picture in {kind}, which data may hold and a request may not" in problem
    assert "Send it as a PNG; allowed are PNG" in problem


@pytest.mark.parametrize("head", OTHERS)
def test_other_formats_are_named(head: bytes) -> None:
    problem = unread_format(head, "PNG")
    assert OTHERS[head] in problem and "allowed are PNG" in problem


def test_a_request_gets_that_message() -> None:
    with pytest.raises(BadCell, match=r"picture in QOI, .*allowed are PNG, JPEG, GIF, BMP"):
        ImageColumn().receive_body(content("QOI"), Unbounded())
    with pytest.raises(BadCell, match="known format"):
        ImageColumn().receive_body(b"no picture", Unbounded())
