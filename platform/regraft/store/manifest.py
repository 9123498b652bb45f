"""Manifests: which files belong together, with their checksums; each is written after its files.

A folder of the store without `manifest.json` is ignored; one with it is complete, because every file was written
before it. The manifest holds the SHA-256 of each file and of itself, so every changed byte is detected and its file
named.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

from regraft.errors import Damaged, NotFound, RegraftError, RequestError
from regraft.store import checksummed
from regraft.store.atomic_files import writing_locally
from regraft.store.bounded_json import get_bounded
from regraft.store.objects import RESERVED, Body, ObjectStore, checked, chunks, size_of
from regraft.units import with_article

FORMAT = 1
"""The only format of manifests that this code reads and writes."""

MANIFEST = "manifest.json"

Kind = Literal["checkpoint", "version", "snapshot", "features"]

_PIECE = 4 << 20
_HEX32 = re.compile(r"[0-9a-f]{32}")
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """One file: its name below the prefix, its size in bytes and its SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files that were committed together. `meta` is JSON; a number in it that is not finite becomes None."""

    kind: Kind
    id: str
    files: tuple[FileEntry, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def size(self) -> int:
        """The total size of all files in bytes."""
        return sum(entry.size for entry in self.files)

    def entry(self, name: str) -> FileEntry:
        """Return the entry of the file `name`. Raises NotFound if the manifest does not list it."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise NotFound(f"no file {name!r}; there are {', '.join(e.name for e in self.files) or 'none'}")

    def to_json(self) -> bytes:
        """Return the stored form, with a checksum of itself."""
        return checksummed.dump(_jsonable(asdict(self)))

    @staticmethod
    def from_json(data: bytes, where: str = "") -> Manifest:
        """Return the manifest stored as `data`. Raises Damaged, naming `where`, if any of it was changed."""
        body = checksummed.load(data, where, FORMAT)
        problem = _problem(body)
        if problem:
            raise Damaged(f"the manifest is not valid: {problem}", where)
        files = tuple(FileEntry(entry["name"], entry["size"], entry["sha256"]) for entry in body["files"])
        return Manifest(kind=body["kind"], id=body["id"], files=files, meta=body["meta"])


def commit(
    store: ObjectStore, prefix: str, files: Mapping[str, Body], *, kind: Kind, meta: Mapping[str, Any]
) -> Manifest:
    """Write all `files` below `prefix`, then the manifest; before that last write nothing is committed.

    No other process may write to `prefix`. Raises Conflict if it already has a manifest.
    """
    return commit_as(store, prefix, files, Manifest(kind, uuid4().hex, (), dict(meta)))


def commit_as(store: ObjectStore, prefix: str, files: Mapping[str, Body], draft: Manifest) -> Manifest:
    """Commit `files` as `commit` does, with the kind, id and meta of `draft`, a manifest without files."""
    prefix = _slashed(prefix)
    if MANIFEST in files:
        raise RequestError(f"a file may not be called {MANIFEST}")
    draft = replace(draft, meta=_jsonable(draft.meta))
    draft.to_json()  # raises for an invalid `meta` before gigabytes are written
    entries = []
    for name, body in sorted(files.items()):
        entry = FileEntry(checked(name), size_of(body), _hash(body))
        store.put(prefix + name, body)
        entries.append(entry)
    manifest = replace(draft, files=tuple(entries))
    store.put_if_absent(prefix + MANIFEST, manifest.to_json())
    return manifest


def load(store: ObjectStore, prefix: str) -> Manifest:
    """Return the manifest at `prefix`. Raises NotFound if nothing was committed there, Damaged if it is invalid."""
    key = _slashed(prefix) + MANIFEST
    return Manifest.from_json(get_bounded(store, key), _where(store, key))


def fetch_verified(store: ObjectStore, prefix: str, into: Path, names: Collection[str] | None = None) -> Manifest:
    """Download and verify the files at `prefix` (only `names`, if given) into the folder `into`; return the manifest.

    A file appears under its name only after its size and SHA-256 were verified; a valid file that already exists is
    not fetched again. Raises Damaged for the first file that is missing or has other bytes.
    """
    prefix = _slashed(prefix)
    manifest = load(store, prefix)
    with writing_locally(into):
        into.mkdir(parents=True, exist_ok=True)
    for entry in manifest.files:
        if names is None or entry.name in names:
            _fetch(store, prefix + entry.name, entry, into / entry.name)
    return manifest


def read_verified(store: ObjectStore, prefix: str, name: str, manifest: Manifest) -> bytes:
    """Return the bytes of one small file, verified as in `fetch_verified`."""
    entry = manifest.entry(name)
    key = _slashed(prefix) + name
    try:
        data, size = store.read_start(key, entry.size + 1)
    except NotFound as error:
        raise _missing(store, key, entry) from error
    _verify(store, key, entry, size=size, sha256=hashlib.sha256(data).hexdigest())
    return data


def _fetch(store: ObjectStore, key: str, entry: FileEntry, path: Path) -> None:
    if path.is_file() and path.stat().st_size == entry.size and _hash(path) == entry.sha256:
        return
    unverified = path.parent / f"{RESERVED}unproven-{uuid4().hex}"
    try:
        store.fetch(key, unverified)
        _verify(store, key, entry, size=unverified.stat().st_size, sha256=_hash(unverified))
        os.replace(unverified, path)
    except NotFound as error:
        raise _missing(store, key, entry) from error
    finally:
        unverified.unlink(missing_ok=True)


def _verify(store: ObjectStore, key: str, entry: FileEntry, *, size: int, sha256: str) -> None:
    if size != entry.size:
        raise Damaged(f"{entry.name} has {size} bytes and should have {entry.size}", _where(store, key))
    if sha256 != entry.sha256:
        raise Damaged(f"{entry.name} does not have the bytes that were written", _where(store, key))


def _missing(store: ObjectStore, key: str, entry: FileEntry) -> RegraftError:
    return Damaged(f"{entry.name} is missing", _where(store, key))


def _hash(body: Body) -> str:
    digest = hashlib.sha256()
    for piece in chunks(body, _PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _problem(body: dict[str, Any]) -> str:
    """Return the reason why a parsed manifest is invalid; "" if it is valid."""
    if missing := sorted({"kind", "id", "files", "meta"} - set(body)):
        return f"it lacks {', '.join(missing)}"
    if body["kind"] not in get_args(Kind):
        return f"kind {str(body['kind'])[:200]!r} is none of {', '.join(get_args(Kind))}"
    if not _matches(_HEX32, body["id"]):
        return f"id {reprlib.repr(body['id'])} is not 32 hex digits"
    if not isinstance(body["meta"], dict) or not isinstance(body["files"], list):
        found = f"found a {_called(body['files'])} and a {_called(body['meta'])}"
        return f"files is a list and meta a mapping; {found}"
    wrong = next((entry for entry in body["files"] if not _valid_entry(entry)), None)
    if wrong is not None:
        return f"file {str(wrong)[:200]} lacks a name, size (bytes) or sha256 (64 hex digits)"
    names = [entry["name"] for entry in body["files"]]
    return "" if len(set(names)) == len(names) else "a file is listed twice"


def _called(value: object) -> str:
    return "mapping" if isinstance(value, dict) else "list" if isinstance(value, list) else "plain value"


def _valid_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not {"name", "size", "sha256"} <= set(entry):
        return False
    try:
        named = isinstance(entry["name"], str) and checked(entry["name"]) != MANIFEST
    except RequestError:  # a name outside the prefix
        return False
    return named and type(entry["size"]) is int and entry["size"] >= 0 and _matches(_HEX64, entry["sha256"])


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _jsonable(value: Any) -> Any:
    """Return `value` as JSON represents it, NaN and infinity as None. Raises RequestError for any other type."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {_text(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    raise RequestError(f"a manifest holds JSON; {value!r} is {with_article(type(value).__name__)}")


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise RequestError(f"a manifest holds JSON, whose keys are text; {key!r} is {with_article(type(key).__name__)}")
    return key


def _slashed(prefix: str) -> str:
    return checked(prefix.removesuffix("/")) + "/"


def _where(store: ObjectStore, key: str) -> str:
    return f"{store.url}/{key}"
