"""References to files that are known by their content: a path or URL with the hash of the bytes that were checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from regraft.errors import DataError

Forget = Callable[[str], None]
"""Called with the place of a file that holds other bytes than its reference has."""
_forgetting: list[Forget] = []


def on_other_bytes(forget: Forget) -> None:
    """Have `forget` called whenever a file holds other bytes than its reference has: what is known of it is wrong."""
    _forgetting.append(forget)


@dataclass(frozen=True, eq=False, slots=True)
class EmbeddedFile:
    """A file's content that stands in a row itself; equal to no other, so that no content is compared."""

    content: bytes


class FileBytes(bytes):
    """A file's content, with the name that messages have for it."""

    name: str

    def __new__(cls, content: bytes, name: str) -> Self:
        """Return the content of the file `name`."""
        made = super().__new__(cls, content)
        made.name = name
        return made

    def __reduce__(self) -> tuple[type[FileBytes], tuple[bytes, str]]:
        return type(self), (bytes(self), self.name)


class UndecodedFile(FileBytes):
    """A request's file that another process decodes before it is used."""

    pixels: int
    """Most pixels or samples that it may decode to."""
    converted: Callable[[], bytes]
    """Returns the file to use in its place. Raises BadCell, and TooLarge."""

    def __new__(cls, content: bytes, pixels: int, converted: Callable[[], bytes]) -> Self:
        """Return the file, which may decode to so many pixels."""
        made = super().__new__(cls, content, "in this row")
        made.pixels, made.converted = pixels, converted
        return made


class FileRef(str):
    """A path or URL, with the SHA-256 and the size of the content that was checked when the data were read."""

    sha256: str
    """In hex; empty for a file that is known by its name alone, as in data stored by the first edition."""
    size: int

    def __new__(cls, place: str, sha256: str = "", size: int = 0) -> Self:
        """Return a reference to the file at `place`."""
        made = super().__new__(cls, place)
        made.sha256, made.size = sha256, size
        return made

    def __reduce__(self) -> tuple[type[FileRef], tuple[str, str, int]]:
        return type(self), (str(self), self.sha256, self.size)

    def read(self, fetch: Callable[[str], bytes] | None = None) -> FileBytes:
        """Return the content that was checked; `fetch` gets it where the place is no local path.

        Raises DataError, which names the file, if it is gone or holds other bytes now.
        """
        try:
            content = fetch(str(self)) if fetch else Path(self).read_bytes()
        except OSError as error:
            raise DataError(f"{self} cannot be read any more: {error.strerror or error}") from None
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            for forget in _forgetting:
                forget(str(self))
            raise DataError(
                f"{self} holds other bytes than when the data were read: put the file back, or run the command again "
                "to read the data as they are now"
            )
        return FileBytes(content, str(self))


def opened(file: object) -> object:
    """Return the checked content of a reference to a local file; anything else as it is."""
    return file.read() if isinstance(file, FileRef) and file.sha256 and "://" not in file else file
