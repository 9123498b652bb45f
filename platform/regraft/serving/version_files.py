"""A version's files on this machine: fetched from the store once, and verified at every use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regraft.data.kept_features import FILE as FEATURES
from regraft.errors import Damaged, RegraftError
from regraft.spec.stored import read_stored_spec
from regraft.store.bounded_yaml import MOST_BYTES
from regraft.store.extension_panics import panics_as_damage
from regraft.store.manifest import Manifest
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version

DELTA = "delta.safetensors"
PROCESSOR = "processor"
SPEC = "spec.yaml"
_NEEDED = ("task", "method", "labels", "base", "seed")


@dataclass(frozen=True)
class Fetched:
    """A version whose files are in `folder`, all with the hashes in its manifest."""

    version: Version
    folder: Path

    @property
    def meta(self) -> Mapping[str, Any]:
        """The version's metadata."""
        return self.version.meta

    @property
    def delta(self) -> Path:
        """Path of the tensors that training moved."""
        return self.folder / DELTA

    @property
    def processor(self) -> Path:
        """Folder of the tokenizer's or image processor's files."""
        return self.folder / PROCESSOR

    @property
    def spec(self) -> Mapping[str, Any]:
        """The resolved spec of the version's training; empty when the version has none."""
        path = self.folder / SPEC
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            return read_stored_spec(file.read(MOST_BYTES + 1), f"{self.version.store.url}/{self.version.prefix}{SPEC}")


def fetch(store: ObjectStore, reference: str) -> Fetched:
    """Fetch the files of the version that `name[@alias|@version]` refers to.

    Features of evaluation rows, which answer nothing, are left out. A file is downloaded unless it is present with the
    right hash. It gets its name only after its hash was verified, so
    that processes that fetch the same version at once do not disturb one another. Raises NotFound, with the nearest
    model, version or alias, and Damaged, with the file whose bytes differ from those that were written.
    """
    registry = Registry(store)
    version = registry.version(*registry.parse(reference))
    _refuse_incomplete(version)
    names = {entry.name for entry in version.manifest.files} - {FEATURES}
    folder = cache_folder() / "versions" / content_id(version.manifest)
    return Fetched(version, registry.fetch(version, folder, names))


def cache_folder() -> Path:
    """Return the folder in REGRAFT_CACHE, else ~/.cache/regraft."""
    return Path(os.environ.get("REGRAFT_CACHE") or "~/.cache/regraft").expanduser().absolute()


def content_id(manifest: Manifest) -> str:
    """Return a name that is unique to the files of a manifest.

    Anyone who writes to the store can forge the manifest's own id: two versions with one id would otherwise share a
    folder, and one could add files to the other.
    """
    files = sorted((entry.name, entry.sha256) for entry in manifest.files)
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:32]


@contextmanager
def loading(fetched: Fetched) -> Iterator[None]:
    """Raise whatever a version's files make other libraries raise as Damaged, which names the version.

    Errors of ours, and of too little memory, stay as they are.
    """
    try:
        with panics_as_damage("a file of it", str(fetched.version)):
            yield
    except (RegraftError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise Damaged(f"it cannot be loaded ({type(error).__name__}: {text})", str(fetched.version)) from error


def _refuse_incomplete(version: Version) -> None:
    where = f"{version.store.url}/{version.prefix}"
    absent = [key for key in _NEEDED if key not in version.meta]
    absent += [f"base.{key}" for key in ("reference", "hash") if not version.meta.get("base", {}).get(key)]
    if absent:
        raise Damaged(f"{version} lacks its {', '.join(absent)}: register the model again", where)
    names = {entry.name for entry in version.manifest.files}
    if DELTA not in names or not any(name.startswith(f"{PROCESSOR}/") for name in names):
        raise Damaged(f"{version} lacks {DELTA} or its {PROCESSOR}/ files: register the model again", where)
