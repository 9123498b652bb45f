"""Files in base64, as the common encoders write them: in lines, with the url-safe alphabet, with or without padding."""

from __future__ import annotations

import base64
import re
from urllib.parse import unquote_to_bytes

from regraft.contracts.column import BadCell

DATA_URL = "data:"
_URL_SAFE = str.maketrans("-_", "+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_BLANK = re.compile(r"[ \t]+")


def decoded(value: str, called: str) -> bytes:
    """Return the bytes of a text in base64, or of a data URL. BadCell for other texts.

    Read are line breaks (MIME, PEM), both alphabets of RFC 4648, and texts without padding.
    """
    text = value.strip()
    if text[: len(DATA_URL)].lower() == DATA_URL:
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise BadCell(f"is a data URL that is not base64: write {DATA_URL}TYPE;base64,... of {called}'s file")
        text = unquote_to_bytes(text).decode("latin-1") if "%" in text else text
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
    plain = "".join(line.strip() for line in text.splitlines())
    if not _BLANK.search(plain):
        return plain, False
    pieces = _BLANK.split(plain)
    if len({len(piece) for piece in pieces[:-1]}) > 1 or len(pieces[-1]) > len(pieces[0]):
        raise BadCell("holds spaces where base64 has none: a form turns + into a space, so write %2B for it")
    return "".join(pieces), True
