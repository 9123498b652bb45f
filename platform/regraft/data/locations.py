"""Locations of data (this machine, S3, the hub): files that a spec names are found there and copied here."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from regraft.data.file_kinds import DICOM_SUFFIXES, IMAGE_SUFFIXES, UNREAD_IMAGES, leftover_kind, suffix_of
from regraft.errors import DataError, NotFound, Unsupported
from regraft.media.sounds.sounds import SUFFIXES as SOUND_SUFFIXES
from regraft.spec.document import STANDARD_INPUT
from regraft.store.objects import open_store

_GLOB = "*?["
_DOCUMENTS = (
    *(".json", ".jsonl", ".xml", ".txt", ".csv", ".tsv", ".arrow", ".yaml", ".yml", ".names", ".labels"),
    *(*DICOM_SUFFIXES, ".nii", ".nii.gz"),
)
"""Suffixes of files that sources read completely; images are read by reference."""
_NEVER = (".py", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".sh", ".exe", ".so")
"""Suffixes of files that are never downloaded from the hub: code, and formats that can contain code."""
_HUB = re.compile(
    r"hf://datasets/(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)
_HUB_FORM = "hf://datasets/<org>/<name>[@<revision>]/<file, folder or glob>"


@dataclass(frozen=True)
class ResolvedPath:
    """A file or folder on this machine, possibly a copy."""

    path: Path
    name: str
    """Its name in messages: the path itself, or the URL that it came from."""
    local_root: str = ""
    """The folder on this machine that holds the copy of `remote_root`; empty when nothing was copied."""
    remote_root: str = ""
    folder: str = ""
    """Where relative paths in it begin; empty for the folder that it is in."""
    by_reference: bool = False
    """Whether its images are empty placeholder files, to be read at their URL."""


class Location(ABC):
    """A kind of place where data can be."""

    @abstractmethod
    def exists(self, written: str) -> bool:
        """Return whether a file or folder has exactly this name."""

    @abstractmethod
    def find(self, written: str) -> Iterator[ResolvedPath]:
        """Yield the file, the folder, or the files that match the pattern, sorted by name; DataError for none."""

    @abstractmethod
    def combine(self, written: str, names: Sequence[str]) -> ResolvedPath:
        """Return several files as one path, `written`, which has braces where `names` differ."""


def location_of(written: str, scratch: Path, suffixes: Sequence[str]) -> Location:
    """Return the location that a spec names; `scratch` is a folder for copies, `suffixes` are those of sources."""
    if written == STANDARD_INPUT:
        return StandardInput(scratch)
    scheme = written.partition("://")[0] if "://" in written else ""
    if not scheme:
        return LocalLocation()
    if scheme == "s3":
        return S3Location(scratch)
    if scheme == "hf":
        return HubLocation(suffixes)
    raise Unsupported(
        f"{scheme}:// is not read; allowed are a local path, a glob, s3:// or hf://: download it first", where=written
    )


class LocalLocation(Location):
    """Files on this machine."""

    def exists(self, written: str) -> bool:
        """Return whether the path exists."""
        return Path(written).expanduser().exists()

    def find(self, written: str) -> Iterator[ResolvedPath]:
        """Yield the path, or the paths that match a glob, in order."""
        path = Path(written).expanduser()
        if path.exists():
            yield _unchanged(path)
        elif any(sign in written for sign in _GLOB):
            found = sorted(glob.glob(str(path), recursive=True))
            if not found:
                raise DataError("no file matches this pattern", where=written)
            yield from (_unchanged(Path(name)) for name in found)
        else:
            beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            near = get_close_matches(path.name, beside, n=1)
            hint = f"; did you mean {path.parent / near[0]}?" if near else ""
            raise DataError(f"there is no such file or folder{hint}", where=written)

    def combine(self, written: str, names: Sequence[str]) -> ResolvedPath:
        """Return the path with braces, once all files exist."""
        for name in names:
            next(self.find(name))
        return _unchanged(Path(written).expanduser())


class StandardInput(Location):
    """The rows that are piped into the command. They are copied, since sources read a file more than once."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    def exists(self, written: str) -> bool:
        """Return True: the name is always that of standard input."""
        return True

    def find(self, written: str) -> Iterator[ResolvedPath]:
        """Yield a copy of all that is piped in; relative paths in it begin in the current folder."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        copy = self._scratch / "standard-input"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        name = "standard input"
        yield ResolvedPath(copy, name, local_root=str(copy), remote_root=name, folder=os.getcwd())

    def combine(self, written: str, names: Sequence[str]) -> ResolvedPath:
        """Return the copy: the name has no braces."""
        return next(self.find(written))


class S3Location(Location):
    """A bucket in S3. Files are copied, except images in folders, which are read by their URL."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._copies = 0

    def exists(self, written: str) -> bool:
        """Return whether an object has exactly this key."""
        bucket, _, key = written.removeprefix("s3://").partition("/")
        return bool(key) and not key.endswith("/") and open_store(f"s3://{bucket}").exists(key)

    def find(self, written: str) -> Iterator[ResolvedPath]:
        """Yield local copies of the object, the folder, or the objects that match a glob."""
        bucket, _, key = written.removeprefix("s3://").partition("/")
        found: Iterator[ResolvedPath]
        if self.exists(written):
            found = iter([self._copy(bucket, key)])
        elif any(sign in key for sign in _GLOB):
            start = key[: min(key.find(sign) for sign in _GLOB if sign in key)]
            matching = [stat.key for stat in open_store(f"s3://{bucket}").list(start) if _matches(stat.key, key)]
            found = (self._copy(bucket, match) for match in matching)
        else:
            found = iter(filter(None, [self._copy_folder(bucket, key.rstrip("/"))]))
        first = next(found, None)
        if first is None:
            raise DataError("no object has this name or matches this pattern", where=written)
        yield first
        yield from found

    def combine(self, written: str, names: Sequence[str]) -> ResolvedPath:
        """Return local copies of several objects as one path with braces."""
        folder = self._new_folder()
        for name in names:
            bucket, _, key = name.removeprefix("s3://").partition("/")
            if not self.exists(name):
                raise DataError("no object has this name", where=name)
            _fetch(bucket, key, folder / key)
        bucket, _, key = written.removeprefix("s3://").partition("/")
        return ResolvedPath(folder / key, written, str(folder), f"s3://{bucket}")

    def _copy(self, bucket: str, key: str) -> ResolvedPath:
        folder = self._new_folder()
        parent, _, name = f"s3://{bucket}/{key}".rpartition("/")
        if name.lower().endswith((*IMAGE_SUFFIXES, *SOUND_SUFFIXES)):
            folder.mkdir(parents=True)
            (folder / name).touch()
        else:
            _fetch(bucket, key, folder / name)
        return ResolvedPath(folder / name, f"{parent}/{name}", str(folder), parent, by_reference=True)

    def _copy_folder(self, bucket: str, prefix: str) -> ResolvedPath | None:
        """Copy a folder, with an empty file for each image or sound; return None when the folder has no objects."""
        url = f"s3://{bucket}/{prefix}".rstrip("/")
        folder, (parent, _, name) = self._new_folder(), url.rpartition("/")
        root = folder / name
        below = f"{prefix}/" if prefix else ""
        for stat in open_store(f"s3://{bucket}").list(below):
            path = root / stat.key.removeprefix(below)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if _is_read_here(path.name, stat.size):
                    _fetch(bucket, stat.key, path)
                else:
                    path.touch()
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                message = "is an object and a folder at once: rename one of them"
                raise DataError(message, where=f"s3://{bucket}/{stat.key}") from None
        return ResolvedPath(root, url, str(folder), parent, by_reference=True) if root.is_dir() else None

    def _new_folder(self) -> Path:
        self._copies += 1
        return self._scratch / str(self._copies)


class HubLocation(Location):
    """A data set on the hub, or in the folder `REGRAFT_HUB_MIRROR` (laid out datasets/<org>/<name>) when that is set.

    Only data files are downloaded, and no code is run.
    """

    def __init__(self, suffixes: Sequence[str]) -> None:
        # Images that are not read are fetched, so that they are counted.
        self._suffixes = tuple(dict.fromkeys((*suffixes, *IMAGE_SUFFIXES, *UNREAD_IMAGES, *_DOCUMENTS, ".gz")))

    def exists(self, written: str) -> bool:
        """Return False: existence is not known before the download, so a name is split at its #."""
        return False

    def find(self, written: str) -> Iterator[ResolvedPath]:
        """Yield files of the data set, downloaded or in the mirror."""
        repository, parts = _repository(written)
        path = parts["path"] or ""
        folder = self._fetch_dataset(written, parts, [path])
        try:
            for found in LocalLocation().find(str(folder / path)):
                yield _named_remotely(found, folder, repository)
        except DataError as error:
            raise DataError(error.message.replace(str(folder), repository), where=written) from None

    def combine(self, written: str, names: Sequence[str]) -> ResolvedPath:
        """Return several files of the data set as one path with braces."""
        repository, parts = _repository(written)
        paths = [_repository(name)[1]["path"] or "" for name in names]
        folder = self._fetch_dataset(written, parts, paths)
        for name, path in zip(names, paths, strict=True):
            if not (folder / path).is_file():
                raise DataError("there is no such file", where=name)
        return _named_remotely(_unchanged(folder / (parts["path"] or "")), folder, repository)

    def _fetch_dataset(self, written: str, parts: Mapping[str, str | None], paths: Sequence[str]) -> Path:
        """Return the data set's folder on this machine, with at least the files that `paths` name."""
        for path in paths:
            if ".." in path.split("/") or path.lower().endswith(_NEVER):
                raise DataError("names no data file: code and pickled objects are never fetched", where=written)
        if mirror := os.environ.get("REGRAFT_HUB_MIRROR"):
            at = f"@{parts['revision']}" if parts["revision"] else ""
            folder = Path(mirror).expanduser() / "datasets" / f"{parts['id']}{at}"
            if not folder.is_dir():
                message = f"is not in the mirror {mirror} (REGRAFT_HUB_MIRROR): put the data set's files into {folder}"
                raise DataError(message, where=written)
            return folder.resolve()
        wanted = [pattern for path in paths for pattern in self._patterns(path)]
        return _download(written, str(parts["id"]), parts["revision"], wanted)

    def _patterns(self, path: str) -> list[str]:
        """Return patterns of files to download: in folders and patterns only data files, else the named file."""
        open_end = [f"{path.rstrip('/')}/*{suffix}".lstrip("/") for suffix in self._suffixes]
        if not any(sign in path for sign in _GLOB):
            return [*([path] if path else []), *open_end]
        closed = [path] if path.lower().endswith(self._suffixes) else [f"{path}{suffix}" for suffix in self._suffixes]
        return [*closed, *open_end]


def _repository(written: str) -> tuple[str, Mapping[str, str | None]]:
    """Return the data set's URL, and the components of the name that is written."""
    found = _HUB.fullmatch(written)
    if found is None:
        raise DataError(f"is not an address on the hub: write {_HUB_FORM}", where=written)
    parts = found.groupdict()
    if parts["revision"]:
        parts["revision"] = unquote(parts["revision"])
    at = f"@{parts['revision']}" if parts["revision"] else ""
    return f"hf://datasets/{parts['id']}{at}", parts


def _download(written: str, name: str, revision: str | None, patterns: list[str]) -> Path:
    ignored = [f"*{suffix}" for suffix in _NEVER]
    try:
        folder = snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=patterns, ignore_patterns=ignored
        )
    except LocalEntryNotFoundError:
        raise DataError(
            "is not in the local cache, and the hub cannot be reached: check the spelling and the network, or set "
            f"REGRAFT_HUB_MIRROR; the form is {_HUB_FORM}",
            where=written,
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        message = " ".join(str(error).split())[:300]
        raise DataError(
            f"{name!r} cannot be downloaded from the hub ({type(error).__name__}): {message}", where=written
        ) from None
    return Path(folder)


def _is_read_here(name: str, size: int) -> bool:
    """Return whether a source reads an object's content, to see what it is or to make rows of it."""
    if leftover_kind(name):
        return False
    return name.lower().endswith(_DOCUMENTS) or (not suffix_of(name) and size > 0)


def _fetch(bucket: str, key: str, path: Path) -> None:
    try:
        open_store(f"s3://{bucket}").fetch(key, path)
    except NotFound:
        raise DataError("was deleted while it was being read", where=f"s3://{bucket}/{key}") from None


def _unchanged(path: Path) -> ResolvedPath:
    path = Path(os.path.abspath(path))
    return ResolvedPath(path, str(path))


def _named_remotely(found: ResolvedPath, folder: Path, repository: str) -> ResolvedPath:
    relative = os.path.relpath(found.path, folder)
    name = repository if relative == "." else f"{repository}/{relative}"
    return ResolvedPath(found.path, name, str(folder), repository)


def _matches(key: str, pattern: str) -> bool:
    """Return whether a key matches a pattern as in a shell: a star does not match a slash."""
    parts, wanted = key.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
