"""Names of files as other tools write them: the file that is meant, here or in S3."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

S3 = "s3://"
_FILE_URL = "file:"
_PLAIN = re.compile(r"[A-Za-z0-9_./()+,=@ -]*[A-Za-z0-9_./()+,=@-]|")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_LOCAL_FILES = "/data/local-files/"
"""Beginning of the addresses that Label Studio gives to files of its machine; `d` is their path."""


class FileName(str):
    """A file's name with the advice that a message gives where there is no such file."""

    advice: str

    @classmethod
    def advised(cls, name: str, advice: str) -> Self:
        """Return a name with its advice, which continues a sentence."""
        named = cls(name)
        named.advice = advice
        return named


def readings(name: str) -> Iterator[str]:
    """Yield what a file's name may mean, as it is written first.

    Backslashes may be separators, `%20` a space, and accented letters one character or two. An address `file://...`
    names the file of this machine.
    """
    if _PLAIN.fullmatch(name):
        yield name
    else:
        yield from dict.fromkeys(_spellings(name))


def last_part(name: str) -> str:
    """Return a name without its folders, as it was written on any system."""
    address = _addressed(name)
    return (name if address is None else address).replace("\\", "/").rstrip("/").rpartition("/")[2]


def find_file(name: str, folder: str | os.PathLike[str]) -> str | None:
    """Return the absolute path of the file on this machine that a name in `folder` means; None if there is none."""
    for reading in readings(name):
        path = os.path.abspath(os.path.join(folder, reading))
        if os.path.exists(path):
            return path
    return None


def absence(name: str, folder: str) -> str:
    """Return what a message adds for a file that is not there, or nothing."""
    if isinstance(name, FileName):
        return f": {name.advice}"
    if _WINDOWS.match(name) or os.path.isabs(name) or is_file_address(name):
        return f": {name!r} is a file of the machine that wrote it; write names that begin at {folder}"
    return ""


def is_file_address(name: str) -> bool:
    """Return whether a name is an address of a file on this machine."""
    return name.lower().startswith(_FILE_URL)


def url_readings(url: str) -> Iterator[str]:
    """Yield the s3:// URLs that a URL may mean, as it is written first; none leads out of its bucket."""
    bucket, _, key = url.removeprefix(S3).partition("/")
    for reading in readings(key):
        found = posixpath.normpath(reading) if ".." in reading else reading
        if found.split("/")[0] != "..":
            yield f"{S3}{bucket}/{found}"


def url_beside(name: str, folder: str) -> str:
    """Return the URL of a file by its name in a folder of S3.

    A name that climbs out of the bucket names nothing: the URL then keeps it as it is written.
    """
    bucket, _, inside = folder.removeprefix(S3).partition("/")
    key = posixpath.normpath(posixpath.join(inside, name))
    return f"{S3}{bucket}/{inside}/{name}" if key.split("/")[0] == ".." else f"{S3}{bucket}/{key}"


def _spellings(name: str) -> Iterator[str]:
    """Yield every reading of a name, some of them twice."""
    address = _addressed(name)
    for text in (name, name.strip(), *([] if address is None else [address])):
        for slashed in (text, text.replace("\\", "/")):
            for decoded in (slashed, unquote(slashed)):
                head, slash, last = decoded.rpartition("/")
                yield decoded
                for outer in ("NFC", "NFD"):
                    for inner in ("NFC", "NFD"):
                        yield unicodedata.normalize(outer, head) + slash + unicodedata.normalize(inner, last)


def _addressed(name: str) -> str | None:
    """Return the path in an address of a file; None for a plain name."""
    if is_file_address(name):
        rest = name[len(_FILE_URL) :].replace("\\", "/")
        host, slash, path = rest.removeprefix("//").partition("/") if rest.startswith("//") else ("", "", rest)
        found = unquote(path if not slash else f"/{path}" if host in ("", "localhost") else f"{host}/{path}")
        return found[1:] if _WINDOWS.match(found[1:]) else found
    if _LOCAL_FILES in name:
        try:
            return next(iter(parse_qs(urlsplit(name).query).get("d", [])), None)
        except ValueError:  # no address, such as one with a single bracket
            return None
    return None
