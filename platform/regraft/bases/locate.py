"""Resolving a spec's `base` to a local folder, checked and identified by the hash of its content."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from regraft.bases import safety
from regraft.bases.private_copy import (
    FETCHED_COPIES,
    Hold,
    PrivateCopy,
    base_files,
    file_hash,
    private_copy,
    source_state,
)
from regraft.bases.safetensors_header import find_problem
from regraft.bases.timm import CONFIG, is_timm_folder
from regraft.errors import BaseError, WrongBase
from regraft.store.atomic_files import writing_locally
from regraft.store.machine_cache import cache_folder
from regraft.store.objects import open_store

ALLOWED = (
    "a hub id (org/name or org/name@revision), a folder, s3://bucket/prefix, package:<module>/<folder>, or "
    "model:<name>[@version] for a registered model"
)
FETCHED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.spm", "chat_template.jinja")
"""Files of a base that are fetched: never pickles, never code."""
_HASHED = ("config.json", "generation_config.json", safety.INDEX, "1_Pooling/config.json")
_PROCESSOR = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "preprocessor_config.json", "processor_config.json", "*.model", "*.spm",
    "chat_template.jinja",
)  # fmt: skip
HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Base:
    """A pretrained model on this machine: immutable, and the same base on every machine where `hash` is the same.

    Its files are a private copy, so that they stay what they are while the original is overwritten, cut or removed.
    """

    reference: str
    """The reference as the spec has it."""
    path: Path
    hash: str
    """SHA-256 over the names and contents of weights, configuration, generation settings and pooling."""
    processor_hash: str
    """The same over the files of tokenizer or image processor."""
    revision: str | None = None
    """The hub's commit; None for a base that is not from the hub."""
    source: Path | None = field(default=None, compare=False)
    """Folder in which it was found; `path` is a private copy of that."""
    state: str = field(default="", compare=False, repr=False)
    """State of the files in `source` when they were copied."""
    hold: Hold | None = field(default=None, compare=False, repr=False)
    ancestors: tuple[str, ...] = ()
    """What a registered model came from, the newest first: the model, its own base, and so on."""

    @property
    def found_at(self) -> Path:
        """Folder in which it was found."""
        return self.source or self.path


def locate(reference: str) -> Base:
    """Find a base, download it if it is remote, and check it.

    A hub id is looked up in the folder `REGRAFT_HUB_MIRROR` (laid out <org>/<name>/) instead of on the hub when that
    is set. Files from S3 are cached below `REGRAFT_CACHE` (~/.cache/regraft). Raises BaseError when the base is not
    found, not safe, or incomplete.
    """
    source, revision = _find(reference)
    safety.check(source, reference)
    copy = private_copy(source, reference)
    _check_copy(copy, reference)
    hashed = [*safety.weights(copy.path), *(copy.path / name for name in _HASHED)]
    processor = _digest(_processor_files(copy.path), copy)
    return Base(reference, copy.path, _digest(hashed, copy), processor, revision, source, copy.state, copy.hold)


def find_folder(reference: str) -> Path:
    """Return the folder of a base; nothing of it is copied. Raises BaseError where there is none."""
    return _find(reference)[0]


def change_on_disk(base: Base) -> str | None:
    """Return a sentence about a base whose original files have changed since it was located, or None."""
    if base.source is None or not base.state:
        return None
    try:
        if source_state(base.source)[0] == base.state:
            return None
        safety.check(base.source, base.reference)
        names = [name for name in base_files(base.source) if _is_hashed(name)]
        if _digest_of({name: file_hash(base.source / name) for name in names}) == base.hash:
            return None
        now = "is another base now"
    except (OSError, BaseError) as error:
        now = f"cannot be used any more ({error})"
    return (
        f"base {base.reference} {now}: models that are loaded go on with a copy of the base that they were trained "
        f"on, and others are refused. Put the base with hash {base.hash} back into {base.source}"
    )


def _is_hashed(name: str) -> bool:
    return name in _HASHED or (name.endswith(".safetensors") and "/" not in name)


def _check_copy(copy: PrivateCopy, reference: str) -> None:
    """Raise BaseError unless the weights of a copy are complete; its source may have changed after its own check."""
    for path in safety.weights(copy.path):
        if wrong := find_problem(path):
            raise BaseError(f"{path.name} {wrong}: fetch it again", where=reference)


def check_hash(base: Base, expected_hash: str, why: str, *, where: str = "base") -> None:
    """Raise WrongBase unless the base has the expected hash.

    `why` ends the message: what depends on that hash, and what to do.
    """
    if base.hash != expected_hash:
        raise WrongBase(f"{base.reference} has hash {base.hash}, and {expected_hash} is expected: {why}", where=where)


def processor_files(base: Base) -> list[Path]:
    """Return the files of tokenizer or image processor, which are stored with every model version."""
    return _processor_files(base.path)


def _processor_files(folder: Path) -> list[Path]:
    found = sorted({file for pattern in _PROCESSOR for file in folder.glob(pattern) if file.is_file()})
    return found or ([folder / CONFIG] if is_timm_folder(folder) else [])


def _find(reference: str) -> tuple[Path, str | None]:
    """Return the folder of a base, downloaded if it is remote, and the hub's commit."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", reference)
    if reference.startswith("package:"):
        return _package(reference), None
    if scheme:
        if scheme[1] != "s3":
            raise BaseError(f"{reference!r} is written; allowed are {ALLOWED}", where="base")
        return _s3(reference), None
    folder = Path(reference).expanduser()
    if reference and folder.is_dir():
        return folder.resolve(), None
    hub = HUB_ID.fullmatch(reference)
    if hub is None or folder.is_file():
        what = "is a file" if folder.is_file() else "is not there"
        raise BaseError(f"{reference!r} {what}; allowed are {ALLOWED}", where="base")
    if mirror := os.environ.get("REGRAFT_HUB_MIRROR"):
        return _mirror(Path(mirror).expanduser(), reference), hub["revision"]
    return _download(hub["id"], hub["revision"])


def _package(reference: str) -> Path:
    """Return a folder inside an installed package. The package is never imported: importing would run its code."""
    module, _, below = reference.removeprefix("package:").partition("/")
    top, *inner = module.split(".")
    try:
        # Names after the first dot are followed as folders: find_spec("a.b") would import a.
        found = importlib.util.find_spec(top) if top.isidentifier() else None
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise BaseError(f"there is no package {top!r} installed here: install it, or name {ALLOWED}", where="base")
    for root in map(Path, found.submodule_search_locations):
        folder = root.joinpath(*inner, below)
        if folder.resolve().is_relative_to(root.resolve()) and folder.is_dir():
            return folder.resolve()
    raise BaseError(f"package {module!r} has no folder {below!r}", where="base")


def _mirror(mirror: Path, reference: str) -> Path:
    folder = mirror / reference
    if not folder.is_dir():
        raise BaseError(
            f"{reference!r} is not in the mirror {mirror} (REGRAFT_HUB_MIRROR): put the model's files into {folder}",
            where="base",
        )
    return folder.resolve()


def _download(name: str, revision: str | None) -> tuple[Path, str]:
    try:
        path = snapshot_download(
            name, revision=revision, allow_patterns=list(FETCHED), ignore_patterns=["*/*.safetensors"]
        )
    except LocalEntryNotFoundError:
        raise BaseError(
            f"{name!r} is not a folder, is not in the local cache, and the hub cannot be reached: check the spelling "
            f"and the network, or set REGRAFT_HUB_MIRROR; allowed are {ALLOWED}",
            where="base",
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        message = " ".join(str(error).split())[:300]
        raise BaseError(
            f"{name!r} cannot be downloaded from the hub ({type(error).__name__}): {message}", where="base"
        ) from None
    return Path(path), Path(path).name


def _s3(url: str) -> Path:
    """Download a base once into the cache, keyed by its listing: other content at the same URL is another folder."""
    store = open_store(url)
    listed = list(store.list())
    if not listed:
        raise BaseError(f"nothing is stored under {url}", where="base")
    if code := next((stat.key for stat in listed if stat.key.endswith(".py")), None):
        raise BaseError(f"{code} is code, and no base's code is ever run: remove it", where=url)
    key = hashlib.sha256(repr((url, [(stat.key, stat.size, stat.tag) for stat in listed])).encode()).hexdigest()[:32]
    cache = cache_folder(FETCHED_COPIES)
    if (cache / key).is_dir():
        return cache / key
    with writing_locally(cache):
        cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
    try:
        for stat in listed:
            if any(Path(stat.key).match(pattern) for pattern in FETCHED):
                store.fetch(stat.key, partial / stat.key)
        safety.check(partial, url)
        rename_into_place(partial, cache / key)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return cache / key


def rename_into_place(partial: Path, final: Path) -> None:
    """Rename a folder; if another process was first, its folder has the same content."""
    try:
        partial.rename(final)
    except OSError:
        if not final.is_dir():
            raise


def _digest(files: Iterable[Path], copy: PrivateCopy) -> str:
    """Return the SHA-256 over the names, relative to the copy's folder, and contents of files."""
    names = {file.relative_to(copy.path).as_posix() for file in files}
    return _digest_of({name: copy.contents[name] for name in names if name in copy.contents})


def _digest_of(contents: Mapping[str, str]) -> str:
    total = hashlib.sha256()
    for name in sorted(contents, key=PurePosixPath):
        total.update(f"{name}\0{contents[name]}\n".encode())
    return total.hexdigest()
