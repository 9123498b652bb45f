"""Encodings of text files: by their mark, as written, and the one that fits where a file is in another."""

from __future__ import annotations

import codecs
import gzip
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Annotated

from pydantic import AfterValidator

from regraft.contracts import Source
from regraft.errors import DataError

USUAL = "utf-8-sig"
_MARKS = (
    (codecs.BOM_UTF8, USUAL),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; that of UTF-32 begins with that of UTF-16."""
_HEAD = 512
_PIECE = 1 << 20
_SAMPLE = 1 << 18
"""Bytes that a guess is made from."""
_LETTERS = 4000
"""Letters outside of ASCII that a guess is made from."""
_SHOWN = 30
_CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8-r", "mac-roman", "cp850"),
    *("shift_jis", "euc-jp", "gb18030", "big5", "euc-kr"),
)
_MAGIC = (
    (b"\x1f\x8b", "it is packed with gzip, so let its name end with .gz"),
    (b"PK\x03\x04", "it is a workbook or a zip archive: save the sheet as CSV in UTF-8, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "it is an Excel workbook: save the sheet as CSV in UTF-8"),
    (b"PAR1", "it is a Parquet file: write data.format: parquet"),
    (b"BZh", "it is packed with bzip2: unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "it is packed with xz: unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "it is packed with zstd: unpack it, or pack it with gzip"),
)
"""Beginnings of files that are no text, with what they are and what to do."""
_MANY = "utf-8, utf-16, cp1252 (Windows), latin-1, mac-roman, shift_jis, gb18030"
_JAPANESE, _KOREAN = ("shift_jis", "euc-jp"), ("euc-kr",)
_TYPOGRAPHIC = frozenset(
    "\u2018\u2019\u201c\u201d\u201e\u2013\u2014\u2026\u20ac\u00a0\u00ab\u00bb\u00b0\u00a3\u00a7\u00bf\u00a1"
)
_COMMON = {
    "gb18030": ("gb2312", 0xD7),
    "big5": ("big5", 0xC6),
    "shift_jis": ("shift_jis", 0x97),
    "euc-jp": ("euc-jp", 0xCF),
}
"""Encodings with thousands of letters: where their first bytes of the common ones end."""


def _known(written: str) -> str:
    """Return the name of an encoding of text. Raises ValueError for another, which names the usual ones."""
    try:
        found = codecs.lookup(written)
    except LookupError:
        found = None
    if (
        found is None
        or not getattr(found, "_is_text_encoding", True)
        or found.name in ("idna", "punycode", "undefined")
    ):
        raise ValueError(f"{written!r} is no encoding that is known; usual ones are {_MANY}")
    return written


Encoding = Annotated[str, AfterValidator(_known)]
"""The name of an encoding, as Python has it."""


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file by its mark: UTF-8 where it has none.

    Raises UnicodeDecodeError for UTF-16 without a mark, which would be read as text with a NUL at every other place.
    """
    with _bytes_of(path) as file:
        head = file.read(_HEAD)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is None and (wide := _without_mark(head)):
        raise UnicodeDecodeError("utf-8", head, 0, 1, f"this is {wide} without its mark")
    return marked or USUAL


def for_reading(encoding: str, path: Path) -> str:
    """Return the name with which to open a file of that encoding: a mark at its beginning is no text."""
    name = codecs.lookup(encoding).name
    if name == "utf-8":
        return USUAL
    family = name.removesuffix("-le").removesuffix("-be")
    if family == name or family not in ("utf-16", "utf-32"):
        return encoding
    with _bytes_of(path) as file:
        head = file.read(len(codecs.BOM_UTF32))
    return family if any(head.startswith(mark) for mark, marked in _MARKS if marked == family) else encoding


@dataclass(frozen=True)
class Undecodable:
    """The first place of a file that cannot be decoded."""

    path: Path
    line: int
    byte: int
    """Counted from 0 in the file, unpacked."""
    encoding: str
    begin: bytes
    """The bytes from the beginning of its line on."""
    head: bytes
    """The bytes at the beginning of the file."""
    mixed: bool
    """Whether the text before it holds letters outside of ASCII that could be decoded."""

    def fitting(self) -> list[str]:
        """Return encodings that fit, the best first: further ones only where they fit as well and read otherwise."""
        if wide := _without_mark(self.begin):
            return [wide]
        text = self.begin[:_SAMPLE]
        text = text[: text.rfind(b"\n") + 1] or text
        scores = [(score, name) for name in _CANDIDATES if (score := _score(text, name)) > 0]
        best = max((score for score, _ in scores), default=0)
        found: dict[str, str] = {}
        for score, name in sorted(scores, key=lambda item: -item[0]):
            if score >= 0.9 * best:
                found.setdefault(self.shown(name), name)
        return list(found.values())[:3]

    def shown(self, encoding: str) -> str:
        """Return the line around the place as an encoding reads it."""
        at = max(0, self._offset() - _SHOWN)
        piece = self.begin.partition(b"\n")[0] if "16" not in encoding else self.begin[:_SAMPLE]
        text = piece.decode(encoding, "replace").splitlines() or [""]
        first = text[0] if "16" in encoding else text[0][at:]
        return first[: 2 * _SHOWN].strip()

    def _offset(self) -> int:
        """Return the place of the first byte outside of ASCII in its line."""
        return next((place for place, byte in enumerate(self.begin) if byte > 0x7F), 0)


def undecodable(paths: Iterable[Path], encoding: str | None) -> Undecodable | None:
    """Return the first place in the files that cannot be decoded by `encoding`, or by their marks; None if all can."""
    for path in paths:
        with _bytes_of(path) as file:
            head = file.read(_HEAD)
        marked = next((name for mark, name in _MARKS if head.startswith(mark)), USUAL)
        used = for_reading(encoding, path) if encoding else marked
        if encoding is None and _without_mark(head):
            return Undecodable(path, 1, 0, "utf-8", head, head, mixed=False)
        if place := _first_place(path, used, head):
            return place
    return None


def _bytes_of(path: Path) -> IO[bytes]:
    """Open a file, unpacked when its name ends with .gz."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _without_mark(head: bytes) -> str:
    """Return the encoding of text that looks like UTF-16 and has no mark; empty for other text."""
    even, odd = head[0::2][: _HEAD // 2], head[1::2][: _HEAD // 2]
    if len(odd) < 4:
        return ""
    nul = [part.count(0) / len(part) for part in (even, odd)]
    if nul[1] > 0.6 and nul[0] < 0.1:
        return "utf-16-le"
    return "utf-16-be" if nul[0] > 0.6 and nul[1] < 0.1 else ""


def _first_place(path: Path, encoding: str, head: bytes) -> Undecodable | None:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    fed, line, wide, start = 0, 1, False, b""
    with _bytes_of(path) as file:
        for piece in _pieces(file):
            held = len(decoder.getstate()[0])
            before = fed - held
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                whole = error.object[: error.start]
                begin = (
                    start[: len(start) - held] + error.object
                    if b"\n" not in whole
                    else error.object[whole.rfind(b"\n") + 1 :]
                )
                good = whole.decode(encoding, "ignore")
                return Undecodable(
                    path,
                    line + good.count("\n"),
                    before + error.start,
                    encoding.removesuffix("-sig"),
                    begin + file.read(_SAMPLE),
                    head,
                    mixed=wide or not good.isascii(),
                )
            fed += len(piece)
            line, wide = line + text.count("\n"), wide or not text.isascii()
            start = (start + piece).rpartition(b"\n")[2][-_SAMPLE:]
    return None


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the file in pieces, and at its end an empty one."""
    while piece := file.read(_PIECE):
        yield piece
    yield b""


def _score(content: bytes, encoding: str) -> float:
    """Return how well the letters outside of ASCII fit together when decoded; 0 or less where they do not."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    places = [place for place, letter in enumerate(text) if letter > "\x7f"][:_LETTERS]
    total = sum(_fit(text, place, encoding) for place in places)
    return total / len(places) if places else 0.0


def _fit(text: str, place: int, encoding: str) -> float:
    """Return how well one letter fits between its neighbours: 1 for a letter of their script, below 0 for no letter."""
    letter = text[place]
    before = text[place - 1] if place else " "
    after = text[place + 1] if place + 1 < len(text) else " "
    script, around = _script(letter), [_script(before), _script(after)]
    if not script:
        inside = all(around) and letter != "\u2019"
        return (1.0 if letter in _TYPOGRAPHIC else -0.2) - (1.0 if inside else 0.0) - (_strange(letter) * 2.0)
    if any(other and other != script and not _asian(script, other) for other in around):
        return -1.0
    if script == "LATIN":
        crowded = before > "\x7f" and after > "\x7f" and all(around)
        capital = letter.isupper() and before.islower()
        return -0.5 if crowded or capital or before.isdigit() or after.isdigit() else 1.0
    if _asian(script, script):
        own = 1.2 if script != "CJK" else 1.0
        return own if _is_common(letter, script, encoding) else -0.5
    return -0.5 if letter.isupper() and before.islower() else 1.0


@cache
def _script(letter: str) -> str:
    """Return the script of a letter, such as LATIN; empty for what is no letter."""
    return unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""


def _asian(script: str, other: str) -> bool:
    names = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL")
    return script in names and (other in names or other == "LATIN")


def _is_common(letter: str, script: str, encoding: str) -> bool:
    """Return whether a letter of an encoding with thousands is an ordinary one."""
    if script != "CJK":  # letters that one language has: their block of another encoding is read by chance
        return encoding in _KOREAN and letter >= "\uac00" if script == "HANGUL" else encoding in _JAPANESE
    name, last = _COMMON.get(encoding, ("", 0))
    try:
        coded = letter.encode(name) if name else b""
    except UnicodeEncodeError:
        return False
    return len(coded) == 2 and coded[0] <= last


def _strange(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Co", "Cn")


def decoding_error(paths: Iterable[Path], source: Source, name: str) -> DataError:
    """Return the error for files that could not be decoded: where, what fits, and what to write.

    `name` is what the data are called where no place is found.
    """
    written: str | None = getattr(source, "encoding", None)
    place = undecodable(paths, written)
    if place is None:
        return DataError(f"is not {written or 'UTF-8'} text: save it as UTF-8", name)
    if packed := next((what for magic, what in _MAGIC if place.head.startswith(magic)), ""):
        return DataError(f"is no text: {packed}", str(place.path))
    where = f"{place.path}:{place.line}"
    what = f"is not {place.encoding.upper()} text (byte {place.byte}, line {place.line})"
    if place.mixed and not written:
        return DataError(f"{what}, though the lines before are: correct this line ({place.shown('cp1252')!r})", where)
    fitting = place.fitting()
    if not fitting:
        return DataError(f"{what}: save it as UTF-8", where)
    looks = " or ".join(f"{one} ({place.shown(one)!r})" for one in fitting)
    setting = (
        f"write data.format: {source.written(encoding=fitting[0])}, or "
        if "encoding" in type(source).model_fields
        else ""
    )
    return DataError(f"{what}; it looks like {looks}: {setting}save it as UTF-8", where)
