"""A kind of column whose values are files: stored by reference, or as bytes if they are not separate files."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from regraft.columns.files.base64_text import decoded
from regraft.columns.files.remote import S3, beginning, contents
from regraft.contracts.column import Allowance, BadCell, Column, Widget, absent, json_name
from regraft.errors import NotFound, RequestError

ARROW = pa.struct([("path", pa.string()), ("bytes", pa.binary())])
"""The Arrow type of a file in a snapshot; the `datasets` library uses the same."""


class FileColumn(Column):
    """A file: an absolute path, an s3:// URL, or the file's bytes."""

    arrow: ClassVar[pa.DataType] = ARROW
    by_reference: ClassVar[bool] = True
    widget: ClassVar[Widget] = "file"
    noun: ClassVar[str] = "file"
    """The file's name in messages."""
    called: ClassVar[str] = "a file"

    @abstractmethod
    def read_header(self, file: str | io.BytesIO, name: str) -> None:
        """Read the header of a path or of a file's first bytes. BadCell when it is not one of this kind.

        `name` is what messages call the file. FileNotFoundError may pass.
        """

    def complete(self, head: bytes) -> bool:
        """Return whether the first bytes of a larger file hold its header."""
        return True

    def read_cell(self, cell: object, folder: str) -> str | bytes:
        """Return the absolute path, the URL or the bytes of a readable file; no more than its header is read."""
        if isinstance(cell, Mapping) and {"bytes", "path"} <= set(cell):  # as the `datasets` library writes files
            cell = cell["path"] if cell["bytes"] is None else cell["bytes"]
        if isinstance(cell, bytes):
            self.read_header(io.BytesIO(cell), f"the {self.noun} in this row")
            return cell
        if not isinstance(cell, str) or not cell:
            raise BadCell("is missing") if absent(cell) or cell == "" else BadCell.unfit(cell, "a path")
        if url := self.remote(cell, folder):
            self.read_header(io.BytesIO(self._first_bytes(url)), url)
            return url
        if "://" in cell:
            advice = f"{self.noun}s are read from local files and s3:// URLs: download them first"
            raise BadCell(f"{cell!r} is a URL; {advice}")
        path = os.path.abspath(os.path.join(folder, cell))
        try:
            self.read_header(path, path)
        except FileNotFoundError:
            raise BadCell(f"there is no {self.noun} {path}") from None
        return path

    def _first_bytes(self, url: str) -> bytes:
        """Return the first bytes of a file in S3. A store that cannot be reached is not a fault of the row."""
        try:
            return beginning(url, self.complete)[0]
        except NotFound:
            raise BadCell(f"there is no {self.noun} {url}") from None
        except RequestError as error:
            raise BadCell(f"{url!r} names no {self.noun} in S3: {error.message}") from None

    def stored(self, value: Any) -> dict[str, str | bytes | None]:
        """Return a path, a URL or bytes as ARROW holds them."""
        return {"path": None, "bytes": value} if isinstance(value, bytes) else {"path": value, "bytes": None}

    def restored(self, value: Any) -> str | bytes:
        """Return the reference or the bytes that `stored` was given."""
        found: str | bytes = value["path"] if value["bytes"] is None else value["bytes"]
        return found

    def fetched(self, value: Any) -> str | bytes:
        """Return a value that can be opened: the bytes of a file in S3, else the value itself."""
        return contents(value)

    def for_check(self, value: Any) -> Any:
        """Return a file in S3 as its first bytes, which contain the image's size."""
        return beginning(value, self.complete)[0] if isinstance(value, str) and value.startswith(S3) else value

    def identity(self, value: Any) -> list[str | int]:
        """Return the file's name and size, without its folder; for bytes, their hash and number."""
        if isinstance(value, bytes):
            return [hashlib.sha256(value).hexdigest(), len(value)]
        if value.startswith(S3):
            return [posixpath.basename(value), beginning(value, self.complete)[1]]
        return [os.path.basename(value), os.path.getsize(value)]

    def remote(self, cell: object, folder: str) -> str | None:
        """Return the URL in S3 that a cell names, itself or by a path beside a file in S3."""
        if not isinstance(cell, str):
            return None
        if cell.startswith(S3):
            return cell
        if not cell or not folder.startswith(S3) or "://" in cell or os.path.isabs(cell):
            return None
        return f"{S3}{posixpath.normpath(posixpath.join(folder.removeprefix(S3), cell))}"

    def prefetch(self, url: str) -> None:
        """Fetch and remember the first bytes of a file in S3."""
        beginning(url, self.complete)

    def accept(self, value: Any) -> Any:
        """Return a path or an open file; bytes as an open file, and a file as the `datasets` library writes it."""
        if isinstance(value, Mapping) and {"bytes", "path"} <= set(value):
            value = value["path"] if value["bytes"] is None else value["bytes"]
        if isinstance(value, bytes | bytearray | memoryview):
            return io.BytesIO(value)
        if not isinstance(value, str | Path) and not hasattr(value, "read"):
            raise BadCell(f"is a {type(value).__name__}; allowed is the path of {self.called}'s file or its bytes")
        return value

    def is_one(self, items: Any) -> bool:
        """Return whether a Python caller gives one open file in place of rows."""
        return hasattr(items, "read")

    def receive(self, value: Any, allowance: Allowance) -> bytes:
        """Return a file's bytes out of base64, with or without `data:image/png;base64,` before it."""
        if not isinstance(value, str):
            raise BadCell(f"is a {json_name(value)}; allowed is {self.called}'s file in base64")
        received: bytes = self.receive_body(decoded(value, self.called), allowance)
        return received
