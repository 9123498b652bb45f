"""Where data lie: on this machine, in S3, on the hub; and how what a spec names there is found and brought here."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from regraft.data.folders import IMAGES
from regraft.errors import DataError, NotFound, Unsupported
from regraft.store.objects import open_store

_GLOB = "*?["
_DOCUMENTS = (".json", ".jsonl", ".xml", ".txt", ".csv", ".tsv", ".arrow", ".dcm", ".nii", ".nii.gz")
"""What sources read whole of a folder; images are read by reference."""
_NEVER = (".py", ".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".ckpt", ".npy", ".sh", ".exe", ".so")
"""What is never fetched from the hub: code, and what may hold some."""
_HUB = re.compile(
    r"hf://datasets/(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)
_HUB_FORM = "hf://datasets/<org>/<name>[@<revision>]/<file, folder or glob>"


@dataclass(frozen=True)
class Found:
    """A file or folder that is here now."""

    path: Path
    name: str
    """What messages call it: the path as it is, or the URL that it came from."""
    here: str = ""
    """The folder on this machine that stands for `there`; empty where it is itself what was named."""
    there: str = ""
    by_reference: bool = False
    """Whether images in it are empty stand-ins, to be read at their URL."""


class Place(ABC):
    """One way to name data."""

    @abstractmethod
    def has(self, written: str) -> bool:
        """Whether a file or folder of exactly this name is there."""

    @abstractmethod
    def find(self, written: str) -> Iterator[Found]:
        """The file, the folder, or the files that match the pattern, by their names; DataError when there is none."""

    @abstractmethod
    def together(self, written: str, names: Sequence[str]) -> Found:
        """Several files as one path, `written`, which has braces where `names` differ."""


def place_of(written: str, scratch: Path, suffixes: Sequence[str]) -> Place:
    """The place that a spec names; `scratch` is a folder for copies, `suffixes` are what sources read."""
    scheme = written.partition("://")[0] if "://" in written else ""
    if not scheme:
        return Here()
    if scheme == "s3":
        return InS3(scratch)
    if scheme == "hf":
        return OnHub(suffixes)
    raise Unsupported(
        f"{scheme}:// is not read; allowed are a local path, a glob, s3:// or hf://: download it first", where=written
    )


class Here(Place):
    """This machine."""

    def has(self, written: str) -> bool:
        return Path(written).expanduser().exists()

    def find(self, written: str) -> Iterator[Found]:
        path = Path(written).expanduser()
        if path.exists():
            yield _itself(path)
        elif any(sign in written for sign in _GLOB):
            found = sorted(glob.glob(str(path), recursive=True))
            if not found:
                raise DataError("no file matches this pattern", where=written)
            yield from (_itself(Path(name)) for name in found)
        else:
            beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            near = get_close_matches(path.name, beside, n=1)
            hint = f"; did you mean {path.parent / near[0]}?" if near else ""
            raise DataError(f"there is no such file or folder{hint}", where=written)

    def together(self, written: str, names: Sequence[str]) -> Found:
        for name in names:
            next(self.find(name))
        return _itself(Path(written).expanduser())


class InS3(Place):
    """A bucket: files are copied, and of folders everything but the images, which are read where they are."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._copies = 0

    def has(self, written: str) -> bool:
        bucket, _, key = written.removeprefix("s3://").partition("/")
        return bool(key) and not key.endswith("/") and open_store(f"s3://{bucket}").exists(key)

    def find(self, written: str) -> Iterator[Found]:
        bucket, _, key = written.removeprefix("s3://").partition("/")
        found: Iterator[Found]
        if self.has(written):
            found = iter([self._copied(bucket, key)])
        elif any(sign in key for sign in _GLOB):
            start = key[: min(key.find(sign) for sign in _GLOB if sign in key)]
            matching = [stat.key for stat in open_store(f"s3://{bucket}").list(start) if _matches(stat.key, key)]
            found = (self._copied(bucket, match) for match in matching)
        else:
            found = iter(filter(None, [self._folder(bucket, key.rstrip("/"))]))
        first = next(found, None)
        if first is None:
            raise DataError("no object has this name or matches this pattern", where=written)
        yield first
        yield from found

    def together(self, written: str, names: Sequence[str]) -> Found:
        folder = self._fresh()
        for name in names:
            bucket, _, key = name.removeprefix("s3://").partition("/")
            if not self.has(name):
                raise DataError("no object has this name", where=name)
            _fetch(bucket, key, folder / key)
        bucket, _, key = written.removeprefix("s3://").partition("/")
        return Found(folder / key, written, str(folder), f"s3://{bucket}")

    def _copied(self, bucket: str, key: str) -> Found:
        folder = self._fresh()
        parent, _, name = f"s3://{bucket}/{key}".rpartition("/")
        if name.lower().endswith(IMAGES):
            folder.mkdir(parents=True)
            (folder / name).touch()
        else:
            _fetch(bucket, key, folder / name)
        return Found(folder / name, f"{parent}/{name}", str(folder), parent, by_reference=True)

    def _folder(self, bucket: str, prefix: str) -> Found | None:
        """The folder as a tree of files here, in which an image is an empty file; None when nothing lies there."""
        url = f"s3://{bucket}/{prefix}".rstrip("/")
        folder, (parent, _, name) = self._fresh(), url.rpartition("/")
        root = folder / name
        below = f"{prefix}/" if prefix else ""
        for stat in open_store(f"s3://{bucket}").list(below):
            path = root / stat.key.removeprefix(below)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lower = path.name.lower()
                if lower.endswith(_DOCUMENTS) or ("." not in lower and stat.size):
                    _fetch(bucket, stat.key, path)
                else:
                    path.touch()
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                told = "is an object and a folder at once: rename one of them"
                raise DataError(told, where=f"s3://{bucket}/{stat.key}") from None
        return Found(root, url, str(folder), parent, by_reference=True) if root.is_dir() else None

    def _fresh(self) -> Path:
        self._copies += 1
        return self._scratch / str(self._copies)


class OnHub(Place):
    """A data set on the hub, or in the folder `REGRAFT_HUB_MIRROR` (laid out datasets/<org>/<name>) when that is set.

    Data files are fetched, never code, and nothing is run.
    """

    def __init__(self, suffixes: Sequence[str]) -> None:
        self._suffixes = tuple(dict.fromkeys((*suffixes, *IMAGES, *_DOCUMENTS, ".gz")))

    def has(self, written: str) -> bool:
        """False where it is not known: a name is split at its # then."""
        return False

    def find(self, written: str) -> Iterator[Found]:
        repository, parts = _repository(written)
        path = parts["path"] or ""
        folder = self._brought(written, parts, [path])
        try:
            for found in Here().find(str(folder / path)):
                yield _renamed(found, folder, repository)
        except DataError as error:
            raise DataError(error.message.replace(str(folder), repository), where=written) from None

    def together(self, written: str, names: Sequence[str]) -> Found:
        repository, parts = _repository(written)
        paths = [_repository(name)[1]["path"] or "" for name in names]
        folder = self._brought(written, parts, paths)
        for name, path in zip(names, paths, strict=True):
            if not (folder / path).is_file():
                raise DataError("there is no such file", where=name)
        return _renamed(_itself(folder / (parts["path"] or "")), folder, repository)

    def _brought(self, written: str, parts: Mapping[str, str | None], paths: Sequence[str]) -> Path:
        """The data set's folder on this machine, with at least the files that `paths` name."""
        for path in paths:
            if ".." in path.split("/") or path.lower().endswith(_NEVER):
                raise DataError("names no data file: code and pickled objects are never fetched", where=written)
        if mirror := os.environ.get("REGRAFT_HUB_MIRROR"):
            at = f"@{parts['revision']}" if parts["revision"] else ""
            folder = Path(mirror).expanduser() / "datasets" / f"{parts['id']}{at}"
            if not folder.is_dir():
                told = f"is not in the mirror {mirror} (REGRAFT_HUB_MIRROR): put the data set's files into {folder}"
                raise DataError(told, where=written)
            return folder.resolve()
        wanted = [pattern for path in paths for pattern in self._patterns(path)]
        return _download(written, str(parts["id"]), parts["revision"], wanted)

    def _patterns(self, path: str) -> list[str]:
        """Of a pattern or a folder only what some source reads; a file that is named is taken at its word."""
        open_end = [f"{path.rstrip('/')}/*{suffix}".lstrip("/") for suffix in self._suffixes]
        if not any(sign in path for sign in _GLOB):
            return [*([path] if path else []), *open_end]
        closed = [path] if path.lower().endswith(self._suffixes) else [f"{path}{suffix}" for suffix in self._suffixes]
        return [*closed, *open_end]


def _repository(written: str) -> tuple[str, Mapping[str, str | None]]:
    """The data set's own URL, and the parts of what is written."""
    found = _HUB.fullmatch(written)
    if found is None:
        raise DataError(f"is no address on the hub: write {_HUB_FORM}", where=written)
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
        told = " ".join(str(error).split())[:300]
        raise DataError(f"the hub does not give {name!r} ({type(error).__name__}): {told}", where=written) from None
    return Path(folder)


def _fetch(bucket: str, key: str, path: Path) -> None:
    try:
        open_store(f"s3://{bucket}").fetch(key, path)
    except NotFound:
        raise DataError("was deleted while it was being read", where=f"s3://{bucket}/{key}") from None


def _itself(path: Path) -> Found:
    path = Path(os.path.abspath(path))
    return Found(path, str(path))


def _renamed(found: Found, folder: Path, repository: str) -> Found:
    relative = os.path.relpath(found.path, folder)
    name = repository if relative == "." else f"{repository}/{relative}"
    return Found(found.path, name, str(folder), repository)


def _matches(key: str, pattern: str) -> bool:
    """As in a shell: a star stays between slashes."""
    parts, wanted = key.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
