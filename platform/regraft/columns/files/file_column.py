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
from regraft.columns.files.content import (
    Content,
    ContentCache,
    content_cache,
    embedded,
    examined,
    forget_prefetched,
    judged,
    keep_embedded,
    keep_prefetched,
    known_content,
    prefetched,
    remembered,
)
from regraft.columns.files.file_names import absence, find_file, is_file_address, url_beside, url_readings
from regraft.columns.files.remote import S3, beginning, contents, object_examined
from regraft.contracts.column import Allowance, BadCell, Column, Widget, absent, json_name
from regraft.contracts.file_ref import EmbeddedFile, FileRef
from regraft.contracts.likeness import CellSample, Likeness
from regraft.errors import DataError, NotFound, RequestError
from regraft.store.machine_cache import cache_folder
from regraft.units import bytes_text, with_article

ARROW = pa.struct([("path", pa.string()), ("bytes", pa.binary()), ("sha256", pa.string()), ("size", pa.int64())])
"""The Arrow type of a file in a snapshot: its place and the hash and number of its bytes, or the bytes themselves."""

_OPENED = 3
"""Cells of a sample that are opened to see whether they are such files."""


class FileColumn(Column):
    """A file: an absolute path, an s3:// URL, or the file's bytes."""

    arrow: ClassVar[pa.DataType] = ARROW
    by_reference: ClassVar[bool] = True
    widget: ClassVar[Widget] = "file"
    noun: ClassVar[str] = "file"
    """The file's name in messages."""
    called: ClassVar[str] = "a file"
    most_bytes: ClassVar[int | None] = None
    """Bytes of the largest file that is read; None: of any size."""

    def files_likeness(self, sample: CellSample, suffixes: tuple[str, ...], noun: str) -> Likeness | None:
        """Return how likely cells are such files: names end in `suffixes` or cells hold bytes, and the first open."""
        if sample.texts is not None and not all(text.lower().endswith(suffixes) for text in sample.texts):
            return None
        if sample.texts is None and not all(isinstance(cell, bytes | dict) for cell in sample.cells):
            return None
        try:
            for cell in sample.cells[:_OPENED]:
                self.read_cell(cell, sample.folder)
        except BadCell:
            return None
        return Likeness(0.9, f"{sample.distinct:,} {noun}")

    @abstractmethod
    def read_header(self, file: str | io.BytesIO, name: str) -> None:
        """Read the header of a path or of a file's first bytes. BadCell when it is not one of this kind.

        `name` is what messages call the file. FileNotFoundError may pass.
        """

    def complete(self, head: bytes) -> bool:
        """Return whether the first bytes of a larger file hold its header."""
        return True

    def problem(self, content: bytes) -> str:
        """Return what is wrong with a file's content, as the rest of a sentence about it; empty where nothing is.

        Called once for each content, in any thread. By default only the header is looked at.
        """
        try:
            self.read_header(io.BytesIO(content), "")
        except BadCell as error:
            return str(error).strip()
        except MemoryError:
            raise DataError(f"there is too little free memory to read a {self.noun}: free some, try again") from None
        except Exception as error:  # readers of formats raise nearly every kind for bytes that they do not expect
            return f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        return ""

    def header_problem(self, path: str) -> str:
        """Return what is wrong with the beginning of a large file, or with its size; empty where nothing is. OSError.

        The rest of the file is not read.
        """
        return self._size_problem(os.path.getsize(path)) or self._read_problem(path)

    def start_problem(self, head: bytes, size: int) -> str:
        """Return what is wrong with a large file by its first bytes, or with its size; empty where nothing is seen."""
        return self._size_problem(size) or ("" if self.header_is_later(head) else self._read_problem(io.BytesIO(head)))

    def header_is_later(self, head: bytes) -> bool:
        """Return whether the first bytes of a larger file are of a kind whose header may stand behind them."""
        return False

    def _size_problem(self, size: int) -> str:
        if self.most_bytes is None or size <= self.most_bytes:
            return ""
        return f"has {bytes_text(size)}; at most {bytes_text(self.most_bytes)} of {self.called} are read"

    def _read_problem(self, file: str | io.BytesIO) -> str:
        try:
            self.read_header(file, "")
        except BadCell as error:
            return str(error).strip()
        except OSError:
            raise
        except Exception as error:  # as in `problem`
            return f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        return ""

    def method(self) -> str:
        """Return a name for what `problem` looks at: another name makes known files be checked again."""
        return f"{type(self).__qualname__} 2"

    def read_cell(self, cell: object, folder: str) -> str | bytes:
        """Return the bytes of a usable file, or its absolute path or URL as a `FileRef`.

        All of the file is read, hashed and checked once; later readings find the result while it is unchanged.
        """
        cell = _file_of(cell)
        if isinstance(cell, bytes):
            found = embedded(self.method(), cell) or judged(cell, self._cache(), self.method(), self.problem)
            if problem := found.problem:
                raise BadCell(f"the {self.noun} in this row {problem}")
            return cell
        if not isinstance(cell, str) or not cell:
            raise BadCell("is missing") if absent(cell) or cell == "" else BadCell.unfit(cell, "a path")
        if not _is_name(cell):
            raise BadCell(f"{cell!a} is no name of a file in UTF-8: rename the file")
        if url := self.remote(cell, folder):
            found, place = prefetched(self.method(), url) or self._object(url)
            return self._usable(place, found)
        if "://" in cell and not is_file_address(cell) and find_file(cell, folder) is None:
            advice = f"{self.noun}s are read from local files and s3:// URLs: download them first"
            raise BadCell(f"{cell!r} is a URL; {advice}")
        path = os.path.abspath(os.path.join(folder, cell))
        try:
            if (known := prefetched(self.method(), path)) is None:
                path = find_file(cell, folder) or path
                known = prefetched(self.method(), path)
            return self._usable(path, known[0] if known else self._examined(path))
        except FileNotFoundError:
            raise BadCell(f"there is no {self.noun} {path}{absence(cell, folder)}") from None
        except OSError as error:
            raise BadCell(f"{path} cannot be read: {error.strerror or error}") from None

    def _usable(self, place: str, content: Content) -> FileRef:
        if content.problem:
            raise BadCell(f"{place} {content.problem}")
        return FileRef(place, content.sha256, content.size)

    def _examined(self, path: str) -> Content:
        return examined(path, self._cache(), self.method(), self.problem, header=self.header_problem)

    def _cache(self) -> ContentCache:
        return content_cache(str(cache_folder("content")), os.getpid())

    def _object(self, url: str) -> tuple[Content, str]:
        """Return the content of a file in S3, and its URL.

        A store that cannot be reached is not a fault of the row.
        """
        problem = f"{url} leads out of its bucket"
        for reading in url_readings(url):
            try:
                content = object_examined(reading, self._cache(), self.method(), self.problem, start=self.start_problem)
                return content, reading
            except NotFound:
                problem = f"there is no {self.noun} {url}"
            except RequestError as error:
                problem = f"{url!r} names no {self.noun} in S3: {error.message}"
        raise BadCell(problem)

    def stored(self, value: Any) -> dict[str, str | bytes | int | None]:
        """Return a path, a URL or bytes as ARROW holds them."""
        if isinstance(value, bytes):
            return {"path": None, "bytes": value, "sha256": None, "size": None}
        if isinstance(value, FileRef) and value.sha256:
            return {"path": str(value), "bytes": None, "sha256": value.sha256, "size": value.size}
        return {"path": str(value), "bytes": None, "sha256": None, "size": None}

    def restored(self, value: Any) -> FileRef | bytes:
        """Return the reference or the bytes that `stored` was given."""
        if value["bytes"] is not None:
            found: bytes = value["bytes"]
            return found
        return FileRef(value["path"], value.get("sha256") or "", value.get("size") or 0)

    def fetched(self, value: Any) -> str | bytes:
        """Return a value that can be opened: the bytes of a file in S3, else the value itself."""
        return contents(value)

    def for_check(self, value: Any) -> Any:
        """Return a file in S3 as its first bytes, which contain the image's size."""
        return beginning(value, self.complete)[0] if isinstance(value, str) and value.startswith(S3) else value

    def identity(self, value: Any) -> list[str | int]:
        """Return the hash and the number of the file's bytes; for a file known by name alone, its name and size."""
        if isinstance(value, bytes):
            return [hashlib.sha256(value).hexdigest(), len(value)]
        if isinstance(value, FileRef) and value.sha256:
            return [value.sha256, value.size]
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
        return url_beside(cell, folder)

    def ahead(self, cell: object, folder: str) -> str | EmbeddedFile | None:
        """Return the URL or the path of the file that a cell names, or the file that it holds, to examine it ahead."""
        cell = _file_of(cell)
        if isinstance(cell, bytes):
            return EmbeddedFile(cell)
        if not isinstance(cell, str) or not cell or not _is_name(cell):
            return None
        if url := self.remote(cell, folder):
            return url
        return None if "://" in cell else find_file(cell, folder)

    def is_known(self, file: str | EmbeddedFile) -> bool:
        """Return whether a file's content is remembered, and keep the result for `read_cell`."""
        if isinstance(file, EmbeddedFile):
            known = known_content(file.content, self._cache(), self.method())
            if known is not None:
                keep_embedded(self.method(), file.content, known)
            return known is not None
        try:
            found = None if file.startswith(S3) else remembered(file, self._cache(), self.method())
        except OSError:
            return False
        if found is not None:
            keep_prefetched(self.method(), file, (found, file))
        return found is not None

    def prefetch(self, file: str | EmbeddedFile) -> None:
        """Examine a file, and fetch and remember the first bytes of one in S3."""
        if isinstance(file, EmbeddedFile):
            judgement = judged(file.content, self._cache(), self.method(), self.problem)
            keep_embedded(self.method(), file.content, judgement)
            return
        if not file.startswith(S3):
            keep_prefetched(self.method(), file, (self._examined(file), file))
            return
        found = self._object(file)
        keep_prefetched(self.method(), file, found)
        if not found[0].problem:
            beginning(found[1], self.complete)

    def fetched_all(self) -> None:
        """Write what is known about files to this machine's disk, for the next reading."""
        self._cache().flush()
        forget_prefetched()
        beginning.cache_clear()  # the next reading may meet other objects of the same names

    def accept(self, value: Any) -> Any:
        """Return a path or an open file; bytes as an open file, and a file as the `datasets` library writes it."""
        if isinstance(value, Mapping) and {"bytes", "path"} <= set(value):
            value = value["path"] if value["bytes"] is None else value["bytes"]
        if isinstance(value, bytes | bytearray | memoryview):
            return io.BytesIO(value)
        if not isinstance(value, str | Path) and not hasattr(value, "read"):
            raise BadCell(
                f"is {with_article(type(value).__name__)}; allowed is the path of {self.called}'s file or its bytes"
            )
        return value

    def is_one(self, items: Any) -> bool:
        """Return whether a Python caller gives one open file in place of rows."""
        return hasattr(items, "read")

    def receive(self, value: Any, allowance: Allowance) -> bytes:
        """Return a file's bytes out of base64, with or without `data:image/png;base64,` before it."""
        if not isinstance(value, str):
            raise BadCell(f"is {with_article(json_name(value))}; allowed is {self.called}'s file in base64")
        received: bytes = self.receive_body(decoded(value, self.called), allowance)
        return received


def _file_of(cell: object) -> object:
    """Return the bytes or the path in a file as the `datasets` library writes it; any other cell as it is."""
    if isinstance(cell, Mapping) and {"bytes", "path"} <= set(cell):
        return cell["path"] if cell["bytes"] is None else cell["bytes"]
    return cell


def _is_name(name: str) -> bool:
    """Return whether a name can be stored: bytes that are no UTF-8 are half characters in it, and NUL ends a name."""
    return "\0" not in name and (name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name))
