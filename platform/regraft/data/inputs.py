"""Which files does `data.train` mean, and which source reads each?"""

from __future__ import annotations

import fnmatch
import glob
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from regraft.contracts import Raw, Source
from regraft.errors import DataError, NotThere, Unsupported
from regraft.store.objects import open_store


@dataclass(frozen=True)
class DataFile:
    """One file or folder of rows, here on this machine."""

    path: Path
    name: str
    """What messages call it: the path, or the s3:// URL that it was downloaded from."""
    source: Source

    def rows(self) -> Iterator[Raw]:
        """Its rows; every failure to read it is a DataError that names it."""
        try:
            for raw in self.source.read(self.path):
                yield replace(raw, where=self._told(raw.where))
        except DataError as error:
            raise DataError(error.message, self._told(error.where)) from None
        except UnicodeDecodeError as error:
            raise DataError(f"is not UTF-8 text (byte {error.start}): save it as UTF-8", self.name) from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"cannot be read: {error}", self.name) from None

    def _told(self, where: str) -> str:
        return where.replace(str(self.path), self.name, 1)


def data_files(written: str, form: Source | None, scratch: Path) -> Iterator[DataFile]:
    """The files that `written` names, in the order of their names.

    `written` is a file, a folder, a glob or an s3:// URL, whose objects are downloaded into the folder `scratch`.
    `form` is the source to read them with (`data.format`); without it each file's own is found.
    """
    scheme = written.partition("://")[0] if "://" in written else ""
    if scheme == "s3":
        found = _from_s3(written, scratch)
    elif scheme:
        raise Unsupported(
            f"{scheme}:// is not read; allowed are a local path, a glob or s3://: download it first", where=written
        )
    else:
        found = ((path, str(path)) for path in _local(written))
    for path, name in found:
        yield DataFile(path, name, form or source_of(path, name))


def source_of(path: Path, name: str) -> Source:
    """The one source that accepts a path; DataError names the candidates when it is none or several."""
    members = [Source.lookup(key) for key in Source.names()]
    takers = [source for member in members if (source := _plain(member)) and source.accepts(path)]
    if len(takers) == 1:
        return takers[0]
    known = "; ".join(f"{member.key()} ({', '.join(member.suffixes) or 'a folder'})" for member in members)
    if takers:
        both = " and ".join(source.key() for source in takers)
        raise DataError(f"{both} both read it: write data.format to choose", where=name)
    hint = f"name the files in it with a glob, such as {name}/*.csv, or " if path.is_dir() else ""
    raise DataError(f"no source reads it by its name; sources are {known}: {hint}write data.format", where=name)


def _plain(member: type[Source]) -> Source | None:
    """The member with its defaults; None for one that has fields to be written, which only data.format can name."""
    try:
        return member()
    except ValidationError:
        return None


def _local(written: str) -> list[Path]:
    path = Path(written).expanduser()
    if path.exists():
        return [path.absolute()]
    if any(sign in written for sign in "*?["):
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise DataError("no file matches this pattern", where=written)
        return [Path(name).absolute() for name in found]
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {path.parent / near[0]}?" if near else ""
    raise DataError(f"there is no such file or folder{hint}", where=written)


def _from_s3(written: str, scratch: Path) -> Iterator[tuple[Path, str]]:
    bucket, _, key = written.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{bucket}")
    if any(sign in key for sign in "*?["):
        start = key[: min(key.find(sign) for sign in "*?[" if sign in key)]
        keys = [stat.key for stat in store.list(start) if _matches(stat.key, key)]
    else:
        keys = [key] if key and not key.endswith("/") and store.exists(key) else []
        if not keys and any(True for _ in store.list(key.rstrip("/") + "/" if key else "")):
            raise Unsupported("folders in S3 are not read yet: name files, or a glob such as *.parquet", where=written)
    if not keys:
        raise DataError("no object has this name or matches this pattern", where=written)
    for number, found in enumerate(keys):
        path = scratch / str(number) / found.rpartition("/")[2]
        try:
            store.fetch(found, path)
        except NotThere:
            raise DataError("was deleted while it was being read", where=f"s3://{bucket}/{found}") from None
        yield path, f"s3://{bucket}/{found}"


def _matches(key: str, pattern: str) -> bool:
    """As in a shell: a star stays between slashes."""
    parts, wanted = key.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
