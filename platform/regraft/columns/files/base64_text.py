"""Files in base64, as the common encoders write them: in lines, with the url-safe alphabet, with or without padding."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote_to_bytes

from regraft.contracts.column import BadCell

DATA_URL = "data:"
_URL_SAFE = str.maketrans("-_", "+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_SPACE = re.compile(rf"[ \t{_BREAKS}]+")
_PIECE = 1 << 12


_SPACES = "holds spaces where base64 has none: a form turns + into a space, so write %2B for it"


def decoded(value: str, called: str) -> bytes:
    """Return the bytes of a text in base64, or of a data URL. BadCell for other texts.

    Read are line breaks (MIME, PEM), both alphabets of RFC 4648, and texts without padding.
    """
    text = value.strip()
    if text[: len(DATA_URL)].lower() == DATA_URL:
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise BadCell(f"is a data URL that is not base64: write {DATA_URL}TYPE;base64,... of {called}'s file")
        text = _unescaped(text) if "%" in text else text
    if text.startswith(("b'", 'b"')):
        raise BadCell("begins with b' (Python's bytes, written as a text): send base64.b64encode(data).decode()")
    plain, spaced = _in_one_line(text)
    if ("-" in plain or "_" in plain) and ("+" in plain or "/" in plain):
        raise BadCell("mixes the two alphabets of base64 (+ and / with - and _): encode it with one of them")
    plain = plain.translate(_URL_SAFE)
    if not _BASE64.fullmatch(plain):
        raise BadCell(f"is not base64: send {called}'s file in it, not its name or address")
    lacking = -len(plain) % 4
    if lacking == 3 or (lacking and (spaced or plain.endswith("="))):
        problem = f"its {len(plain):,} characters are no whole number of groups of 4, so it is cut off"
        raise BadCell(f"is not base64: {problem}, or a file's name or address")
    return base64.b64decode(plain + "=" * lacking)


def _in_one_line(text: str) -> tuple[str, bool]:
    """Return the text without line breaks, and whether they had become spaces, as a shell makes of them.

    Lines have one length. Other spaces were plus signs before a form was decoded: dropping them would damage the file.
    """
    spaced = (" " in text or "\t" in text) and _is_spaced(text)
    for sign in f"{_BREAKS} \t":  # a list of the lines would take many times the memory of the text
        text = text.replace(sign, "")
    return text, spaced


def _is_spaced(text: str) -> bool:
    """Return whether spaces stand between lines of one length; those beside a line break mean nothing.

    Raises BadCell where the lengths differ.
    """
    width, length, at = 0, 0, 0
    for space in _SPACE.finditer(text):
        length, at = length + space.start() - at, space.end()
        if not space[0].strip(" \t"):
            width = width or length
            if length != width:
                raise BadCell(_SPACES)
            length = 0
    if width and length + len(text) - at > width:
        raise BadCell(_SPACES)
    return bool(width)


def _unescaped(text: str) -> str:
    """Return a text without the escapes of addresses (%2B), undone piece by piece to save memory."""
    pieces, at = [], 0
    while at < len(text):
        end = at + _PIECE
        cut = text.rfind("%", end - 2, end)  # an escape that the end would divide belongs to the next piece
        end = cut if cut > at else end
        pieces.append(unquote_to_bytes(text[at:end]).decode("latin-1"))
        at = end
    return "".join(pieces)
