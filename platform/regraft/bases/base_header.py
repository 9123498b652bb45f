"""What a base says of itself without its weights: its small files, and the headers of its safetensors files.

A header is read by a range of its file, on the hub and in S3 too, so that a plan never downloads weights.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, NotASafetensorsRepoError

from regraft.bases import safety
from regraft.bases.locate import FETCHED, HUB_ID, Base, find_folder
from regraft.bases.safetensors_header import BITS, MAX_HEADER_BYTES, DuplicateKey, unique_keys
from regraft.errors import BaseError
from regraft.store.objects import ObjectStore, open_store

SMALL = tuple(pattern for pattern in FETCHED if not pattern.endswith(".safetensors"))
"""The files of a base that are fetched for a plan."""
_LENGTH = 8
"""Bytes that hold the length of a header."""


@dataclass(frozen=True, slots=True)
class BaseHeader:
    """A base without weights: a folder of its small files, and the shape and bytes of each tensor."""

    reference: str
    folder: Path
    shapes: Mapping[str, tuple[int, ...]]
    bytes: int
    """Bytes of the tensors as they are stored."""

    @property
    def numbers(self) -> int:
        """The numbers that the files hold."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def as_base(self) -> Base:
        """Return the base with its small files alone, of which models without values can be built."""
        return Base(self.reference, self.folder, "", "")


def read_header(reference: str, scratch: Path) -> BaseHeader:
    """Read the headers of a base, wherever it is; its small files go into `scratch` where they are remote.

    Raises BaseError where there is no such base, or a header cannot be read.
    """
    if reference.startswith("s3://"):
        return _in_s3(reference, scratch)
    hub = HUB_ID.fullmatch(reference)
    local = reference.startswith("package:") or Path(reference).expanduser().is_dir()
    if hub is not None and not local and not os.environ.get("REGRAFT_HUB_MIRROR"):
        return _on_hub(reference, hub["id"], hub["revision"], scratch)
    return folder_header(find_folder(reference), reference)


def folder_header(folder: Path, reference: str) -> BaseHeader:
    """Read the headers of a base in a folder of this machine."""
    safety.check_harmless(folder, reference)
    shapes: dict[str, tuple[int, ...]] = {}
    total = 0
    for path in safety.weights(folder):
        with path.open("rb") as file:
            length = _checked_length(file.read(_LENGTH), path.name, reference)
            total += _add(shapes, file.read(length), path.name, reference)
    return BaseHeader(reference, folder, _some(shapes, reference), total)


def _in_s3(url: str, scratch: Path) -> BaseHeader:
    store = open_store(url)
    listed = list(store.list())
    if not listed:
        raise BaseError(f"nothing is stored under {url}", where="base")
    for stat in listed:
        if stat.size <= safety.MAX_JSON_BYTES and any(Path(stat.key).match(pattern) for pattern in SMALL):
            store.fetch(stat.key, scratch / stat.key)
    safety.check_harmless(scratch, url)
    shapes: dict[str, tuple[int, ...]] = {}
    weights = [stat.key for stat in listed if stat.key.endswith(".safetensors") and "/" not in stat.key]
    total = sum(_add(shapes, _range(store, key, url), key, url) for key in weights)
    return BaseHeader(url, scratch, _some(shapes, url), total)


def _range(store: ObjectStore, key: str, url: str) -> bytes:
    """Return the header of a file in S3, read by two ranges."""
    length = _checked_length(store.read_start(key, _LENGTH)[0], key, url)
    return store.read_start(key, _LENGTH + length)[0][_LENGTH:]


def _on_hub(reference: str, name: str, revision: str | None, scratch: Path) -> BaseHeader:
    """Return the header of a base of the hub: of its files in the local cache where they are complete."""
    try:
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if safety.weights(cached):
            return folder_header(cached, reference)
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(SMALL)))
        found = HfApi().get_safetensors_metadata(name, revision=revision)
    except LocalEntryNotFoundError:
        raise BaseError(
            f"{name!r} is not in the local cache, and the hub cannot be reached: check the spelling and the network, "
            "or set REGRAFT_HUB_MIRROR",
            where="base",
        ) from None
    except (HfHubHTTPError, HFValidationError, NotASafetensorsRepoError) as error:
        message = " ".join(str(error).split())[:300]
        raise BaseError(
            f"{name!r} cannot be read on the hub ({type(error).__name__}): {message}", where="base"
        ) from None
    shutil.copytree(folder, scratch, dirs_exist_ok=True)
    safety.check_harmless(scratch, reference)
    tensors = [pair for file in found.files_metadata.values() for pair in file.tensors.items()]
    total = sum(last - first for first, last in (info.data_offsets for _, info in tensors))
    return BaseHeader(reference, scratch, {name: tuple(info.shape) for name, info in tensors}, total)


def _checked_length(first: bytes, name: str, reference: str) -> int:
    length = int.from_bytes(first, "little")
    if len(first) < _LENGTH or not 0 < length <= MAX_HEADER_BYTES:
        raise BaseError(f"{name} is no safetensors file: its header would have {length} bytes", where=reference)
    return length


def _add(shapes: dict[str, tuple[int, ...]], text: bytes, name: str, reference: str) -> int:
    """Add the shapes of one header, and return the bytes of its tensors."""
    try:
        entries = dict(_entries(json.loads(text, object_pairs_hook=unique_keys)))
    except (DuplicateKey, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise BaseError(f"{name} has a header that is not readable: {error}", where=reference) from None
    shapes |= {tensor: shape for tensor, (shape, _) in entries.items()}
    return sum(math.prod(shape) * bits // 8 for shape, bits in entries.values())


def _entries(header: Mapping[str, Any]) -> Iterator[tuple[str, tuple[tuple[int, ...], int]]]:
    for name, entry in header.items():
        if name != "__metadata__":
            shape = tuple(entry["shape"])
            if not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError(f"{name[:80]!r} has an invalid shape")
            yield name, (shape, BITS[entry["dtype"]])


def _some(shapes: dict[str, tuple[int, ...]], reference: str) -> dict[str, tuple[int, ...]]:
    if not shapes:
        raise BaseError("no *.safetensors with tensors here: name a base as save_pretrained writes it", where=reference)
    return shapes
