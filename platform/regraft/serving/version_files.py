"""A version's files on this machine: fetched from the store once, and verified at every use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from regraft.errors import Damaged
from regraft.store.manifest import Manifest
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version

DELTA = "delta.safetensors"
PROCESSOR = "processor"
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
        path = self.folder / "spec.yaml"
        document = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        return document if isinstance(document, dict) else {}


def fetch(store: ObjectStore, reference: str) -> Fetched:
    """Fetch the files of the version that `name[@alias|@version]` refers to.

    A file is downloaded unless it is present with the right hash. It gets its name only after its hash was verified, so
    that processes that fetch the same version at once do not disturb one another. Raises NotFound, with the nearest
    model, version or alias, and Damaged, with the file whose bytes differ from those that were written.
    """
    registry = Registry(store)
    version = registry.version(*registry.parse(reference))
    _refuse_incomplete(version)
    return Fetched(version, registry.fetch(version, cache_folder() / "versions" / content_id(version.manifest)))


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


def _refuse_incomplete(version: Version) -> None:
    where = f"{version.store.url}/{version.prefix}"
    absent = [key for key in _NEEDED if key not in version.meta]
    if absent:
        raise Damaged(f"{version} lacks its {', '.join(absent)}: register the model again", where)
    names = {entry.name for entry in version.manifest.files}
    if DELTA not in names or not any(name.startswith(f"{PROCESSOR}/") for name in names):
        raise Damaged(f"{version} lacks {DELTA} or its {PROCESSOR}/ files: register the model again", where)
