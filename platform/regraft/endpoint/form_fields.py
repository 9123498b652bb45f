"""Fields of HTML forms: multipart/form-data (RFC 7578) and application/x-www-form-urlencoded, within bounds.

A multipart body is searched once from its beginning to its end; the numbers and sizes of its headers are bounded.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

from regraft.columns.files.base64_text import decoded
from regraft.contracts import BadCell
from regraft.endpoint.http_errors import HttpError, wrong

MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
LONGEST_BOUNDARY = 200
"""RFC 2046 allows 70 characters; some clients write a few more."""
LARGEST_HEAD = 8 << 10
"""Bytes of a field's headers."""
MOST_HEADERS = 16
_PARAMETER = re.compile(r""";\s*([\w*!#$&^`|~.+-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))""", re.DOTALL)
CHARSETS = {
    "utf-8": "utf-8-sig",
    "utf8": "utf-8-sig",
    "us-ascii": "utf-8-sig",
    "iso-8859-1": "latin-1",
    "windows-1252": "cp1252",
    "utf-16": "utf-16",
}
"""Charsets of a text in a form, with the codecs that read them; Apache's HttpClient writes ISO-8859-1 by default."""
_PLAIN = ("", "7bit", "8bit", "binary")


@dataclass(frozen=True, slots=True)
class FormField:
    """One field of a form."""

    name: str
    content: bytes
    is_file: bool = False
    """Whether it has a file's name, or the media type of one."""
    media_type: str = ""
    charset: str = "utf-8"

    def text(self) -> str:
        """Return the content as a text; a byte order mark is left out. Raises HttpError 415 and 422."""
        codec = CHARSETS.get(self.charset)
        if codec is None:
            raise _not_read(self.name, f"charset {self.charset[:80]}")
        try:
            return self.content.decode(codec)
        except UnicodeDecodeError as error:
            byte = self.content[error.start]
            problem = f"byte {error.start} is 0x{byte:02X}, which is not {self.charset}"
            raise wrong(f"{self.name[:80]}: {problem}: send UTF-8, or write the charset") from None


def urlencoded_fields(body: bytes, most: int) -> list[FormField]:
    """Return the fields of a urlencoded form, at most `most`. Raises HttpError 413 and 422."""
    if body.count(b"&") >= most:
        raise _too_many(most)
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise wrong("the form's body is not UTF-8") from None
    return [FormField(name, value.encode()) for name, value in pairs]


def multipart_fields(body: bytes, content_type: str, most: int) -> list[FormField]:
    """Return the fields of a multipart form, at most `most`. Raises HttpError 413, 415 and 422."""
    delimiter = b"--" + _boundary(content_type)
    fields: list[FormField] = []
    for head, content in _parts(body, delimiter):
        if len(fields) == most:
            raise _too_many(most)
        fields.append(_field(head, content))
    return fields


def parameters_in(header: str) -> dict[str, str]:
    """Return the parameters of a header's value, such as boundary and charset, by their names in lower case."""
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        for name, quoted, plain in _PARAMETER.findall(header)
    }


def _boundary(content_type: str) -> bytes:
    written = parameters_in(content_type).get("boundary", "")
    if not written:
        raise wrong(f"{MULTIPART} without its boundary: do not write Content-Type yourself, the client does it")
    if len(written) > LONGEST_BOUNDARY or not written.isascii():
        raise wrong(f"the form's boundary is longer than {LONGEST_BOUNDARY} characters, or not of ASCII")
    return written.encode()


def _parts(body: bytes, delimiter: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the headers and the content of each part."""
    at = 0 if body.startswith(delimiter) else body.find(b"\n" + delimiter) + 1
    if not at and not body.startswith(delimiter):
        raise wrong("the form's boundary is not in its body: do not write Content-Type yourself, the client does it")
    at += len(delimiter)
    ends = body.find(b"\n", at)  # scripts write forms with bare line feeds
    line = b"\n" if ends == at or body[ends - 1 : ends] != b"\r" else b"\r\n"
    while body[at : at + 2] != b"--":
        start = body.find(line, at)
        if start < 0 or body[at:start].strip():
            raise wrong("the form cannot be read: its boundary is not followed by a line's end")
        start += len(line)
        stop = body.find(line * 2, start, start + LARGEST_HEAD)
        end = body.find(line + delimiter, max(stop, 0))
        if stop < 0 or end < 0:
            raise wrong("the form is cut off, or a field of it has no headers or too large ones")
        begin = min(stop + 2 * len(line), end)
        yield _text(body[start:stop]), body[begin:end]
        at = end + len(line) + len(delimiter)


def _text(head: bytes) -> str:
    try:
        return head.decode("utf-8")
    except UnicodeDecodeError:
        return head.decode("latin-1")


def _field(head: str, content: bytes) -> FormField:
    """Return a part as a field. Raises HttpError 415 for a coding that is not read."""
    lines = re.sub(r"\r?\n[ \t]+", " ", head).splitlines()
    if len(lines) > MOST_HEADERS:
        raise wrong(f"a field of the form has {len(lines)} headers; at most {MOST_HEADERS} are allowed")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    written = parameters_in(headers.get("content-disposition", ""))
    if "name" not in written:
        raise wrong('a field of the form has no name: write Content-Disposition: form-data; name="..."')
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    coding, packed = headers.get("content-transfer-encoding", "").lower(), headers.get("content-encoding", "")
    if packed.lower() not in ("", "identity"):
        raise _not_read(written["name"], f"Content-Encoding {packed[:80]}")
    binary = bool(media_type) and not media_type.startswith(("text/", "application/json"))
    is_file = binary or not {"filename", "filename*"}.isdisjoint(written)
    charset = parameters_in(headers.get("content-type", "")).get("charset", "utf-8").lower()
    return FormField(written["name"], _plain(content, coding, written["name"]), is_file, media_type, charset)


def _plain(content: bytes, coding: str, name: str) -> bytes:
    """Return a part's content without its Content-Transfer-Encoding."""
    if coding in _PLAIN:
        return content
    if coding == "quoted-printable":
        return binascii.a2b_qp(content)
    if coding != "base64":
        raise _not_read(name, f"Content-Transfer-Encoding {coding[:80]}")
    try:
        return decoded(content.decode("latin-1"), "the field")
    except BadCell as error:
        raise wrong(error.of(name[:80])) from None


def _not_read(name: str, what: str) -> HttpError:
    return HttpError(415, "UnreadBody", f"{name[:80]}: {what} is not read; send the field as it is")


def _too_many(most: int) -> HttpError:
    return HttpError(413, "TooLarge", f"the form has more than {most} fields: send fewer inputs at once")
