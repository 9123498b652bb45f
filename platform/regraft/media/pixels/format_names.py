"""The format of a picture by its first bytes, for messages about pictures that are not read; nothing is decoded."""

from __future__ import annotations

_AT_START = (
    (b"8BPS", "PSD"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"icns", "ICNS"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"SIMPLE  =", "FITS"),
    (b"/* XPM", "XPM"),
    (b"#define", "XBM"),
    (b"\xb1\x68\xde\x3a", "DCX"),
    (b"\x01\xda", "SGI"),
    (b"\x59\xa6\x6a\x95", "SUN"),
    (b"Image type:", "IM"),
    (b"DanM", "MSP"),
    (b"LinS", "MSP"),
    (b"BLP1", "BLP"),
    (b"BLP2", "BLP"),
    (b"FTEX", "FTEX"),
    (b"\x80\xe8\0\0", "PIXAR"),
    (b"\x28\0\0\0", "DIB"),
    *((b"\x0a" + bytes([version]), "PCX") for version in (0, 2, 3, 5)),
)
"""Beginnings of the formats that data may hold and a request may not."""
_REQUESTED = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
)
_AVIF = (b"avif", b"avis", b"mif1", b"msf1")
_PPM = tuple(bytes([letter]) for letter in b"0123456fy")
_UNREAD = (
    (0, b"%PDF", "a PDF document: send its page as a PNG"),
    (0, b"%!PS", "a PostScript drawing: send it as a PNG"),
    (0, b"<svg", "an SVG drawing: send it as a PNG"),
    (0, b"<?xml", "an XML document: send a picture"),
    (0, b"\xff\x0a", "a JPEG XL picture: send it as a JPEG or PNG"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture: send it as a JPEG or PNG"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture: send it as a PNG"),
    (0, b"PK\x03\x04", "a ZIP archive: send one picture of it"),
    (128, b"DICM", "a DICOM file: send its picture as a PNG"),
    *(
        (4, b"ftyp" + brand, "a HEIF photo: send it as a JPEG")
        for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
    ),
)
"""Place and bytes of what is read nowhere, with what it is and the way out."""


def may_be_read(content: bytes) -> bool:
    """Return whether a file begins like one of the formats that a request may hold."""
    if content[4:8] == b"ftyp":
        return content[8:12] in _AVIF
    if content.startswith(b"P"):
        return content[1:2] in _PPM
    return content.startswith(_REQUESTED) or (content.startswith(b"RIFF") and content[8:12] == b"WEBP")


def unread_format(content: bytes, allowed: str) -> str:
    """Return what is wrong with a request's picture of no allowed format, as the rest of a sentence about it."""
    for place, mark, what in _UNREAD:
        if content[place : place + len(mark)] == mark:
            return f"is {what}; allowed are {allowed}"
    name = next((name for mark, name in _AT_START if content.startswith(mark)), "")
    if content[20:24] == b"GIMP":
        name = "GBR"
    if content[-18:-2] == b"TRUEVISION-XFILE":
        name = "TGA"
    if name:
        return (
            f"is a picture in {name}, which data may hold and a request may not: few decoders are open to senders. "
            f"Send it as a PNG; allowed are {allowed}"
        )
    return f"is not an image of a known format; allowed are {allowed}"
