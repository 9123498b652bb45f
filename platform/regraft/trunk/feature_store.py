"""The trunk's outputs in the store, by the hash of each row: a second run reads the outputs of the first.

`<store>/features/<trunk-id>/<shard>/` holds one Arrow file for each writer: row hash, shape and values. The trunk-id
is a hash of the base, the place in the model, the preprocessing and the precision. So values of another model or of
another preprocessing are never read. Files are memory-mapped: all processes of a machine share their pages.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.bases.delta import canonical_name
from regraft.contracts.file_ref import FileRef
from regraft.data.local_cache import local_files
from regraft.data.rows import Rows
from regraft.errors import Damaged, NotFound, StoreError
from regraft.store.machine_cache import cache_folder
from regraft.store.manifest import MANIFEST, commit
from regraft.store.objects import ObjectStore, Stat
from regraft.trunk.boundary import Boundary

FORMAT = 1
"""Version of the keys of rows and values."""
VERIFIED = 2
"""Version of a shard whose values were computed from the very bytes that its keys are hashes of.

In shards of version 1, as 0.1.0 writes them, a file was hashed first and read again later.
"""
DISTRUSTED = "distrusted.json"
"""Lies beside a shard in which values were found that the model does not compute; no run reads it again."""
FILE = "features.arrow"
PIECE = 512
"""Rows per Arrow record batch."""
HASH = 16
"""Bytes of a row's hash. Among 10^9 rows, two have the same hash with a probability of about 10^-21."""

_SCHEMA = pa.schema([("row", pa.binary(HASH)), ("shape", pa.list_(pa.int32())), ("values", pa.large_binary())])
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def trunk_id(boundary: Boundary, prefix: str, **made_by: Any) -> str:
    """Return the key of one value's features; `made_by` is everything else that determines them."""
    place = [canonical_name(boundary.module, prefix), boundary.place, boundary.first_only, str(boundary.dtype)]
    what = [FORMAT, place, [asdict(dim) for dim in boundary.dims], made_by]
    return hashlib.sha256(_canonical(what).encode()).hexdigest()[:32]


def row_hashes(rows: Rows, images: Iterable[str] = (), chosen: Iterable[int] | None = None) -> NDArray[np.bytes_]:
    """Return hashes of HASH bytes over all columns, for every row or the chosen ones, in order.

    The columns `images` count by their content.
    """
    names, indices = tuple(images), range(len(rows)) if chosen is None else chosen
    return np.array([_row_hash(rows, int(index), names) for index in indices], dtype=f"S{HASH}")


def _row_hash(rows: Rows, index: int, images: Sequence[str]) -> bytes:
    row = rows.stored(index)
    if unknown := [name for name in images if _is_unknown(row[name])]:
        for name in unknown:
            rows.know(_hashed(rows, index, name, str(row[name])))
        row = rows.stored(index)
    row.pop("row")
    for name in images:
        row[name] = _content(row[name])
    digest = hashlib.sha256(_canonical(row).encode("utf-8", "surrogatepass")).digest()[:HASH]
    # A trailing zero byte would be lost in a fixed-width array of bytes.
    return digest[:-1] + bytes([digest[-1] | 1])


def _is_unknown(image: str | bytes | None) -> bool:
    """Return whether the bytes have to be read to know an image's content."""
    return image is not None and not isinstance(image, bytes) and not (isinstance(image, FileRef) and image.sha256)


def _hashed(rows: Rows, index: int, name: str, place: str) -> FileRef:
    """Return a reference to a file that was known by its name alone, with the hash of the bytes it has now."""
    found = rows.row(index)[name]
    content = found if isinstance(found, bytes) else Path(found).read_bytes()
    return FileRef(place, hashlib.sha256(content).hexdigest(), len(content))


def _content(image: str | bytes | None) -> str | None:
    """Return the hash of an image's bytes; its name and size do not show that it was replaced.

    A reference has the hash of the bytes that were checked, and gives no others to compute values of.
    """
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else getattr(image, "sha256", None)


def is_outdated(meta: Mapping[str, Any], least: int) -> bool:
    """Return whether a shard with this meta has a version below `least`; one that cannot be read is taken for 1."""
    version = meta.get("format")
    return (version if type(version) is int else FORMAT) < least


def collect(store: ObjectStore, older_than_s: float) -> tuple[list[str], int]:
    """Delete shards that were never committed and not touched for that long.

    Returns the prefixes of the deleted shards, and the bytes of the committed ones of all models.
    """
    folders: dict[str, list[Stat]] = {}
    for stat in store.list("features/"):
        folders.setdefault(stat.key.rpartition("/")[0] + "/", []).append(stat)
    gone, kept, before = [], 0, store.now() - older_than_s
    for prefix, stats in folders.items():
        if any(stat.key == prefix + MANIFEST for stat in stats):
            kept += sum(stat.size for stat in stats)
        elif max(stat.modified for stat in stats) < before:
            store.delete([stat.key for stat in stats])
            gone.append(prefix)
    return gone, kept


@dataclass(frozen=True, slots=True)
class Shard:
    """One committed shard: its place in the store, and the run that wrote it (empty where that is not known)."""

    prefix: str
    run: str


class Features:
    """The rows that the store holds for one trunk-id, by hash."""

    def __init__(
        self,
        store: ObjectStore,
        identity: str,
        cache: Path | None = None,
        *,
        facts: Mapping[str, str] | None = None,
        least: int = FORMAT,
    ) -> None:
        """`facts` (`run`, `dtype`) are written with new shards; shards of a version below `least` are passed over."""
        self._store, self.prefix, self._cache = store, f"features/{identity}", cache or cache_folder("features")
        self._facts = {**(facts or {}), "format": VERIFIED}
        self._least = least
        self._only = ""
        self._chunks: list[_Chunk] = []
        self._shards: list[Shard] = []
        """The shard of each chunk."""
        self.refused: dict[str, str] = {}
        """Unusable shards by name, with the reason. Their rows are computed again."""
        self.outdated: list[str] = []
        """Shards of a version below `least`."""
        self._known = np.zeros(0, dtype=f"S{HASH}")
        self._place = np.zeros((0, 2), dtype=np.int64)
        self.refresh()

    def refresh(self) -> None:
        """Open the shards that are in the store now: another rank or another run may have written some."""
        hashes: list[NDArray[Any]] = []
        places: list[NDArray[np.int64]] = []
        self._chunks, self._shards, self.outdated = [], [], []
        for shard, meta, table in self._opened():
            for batch in table.to_batches():
                hashes.append(_hashes(batch.column("row")))
                number = np.full(batch.num_rows, len(self._chunks), dtype=np.int64)
                places.append(np.stack([number, np.arange(batch.num_rows)], axis=1))
                self._chunks.append(_Chunk(batch.column("values"), batch.column("shape")))
                self._shards.append(Shard(shard, str(meta.get("run") or "")))
        self._known, self._place = np.zeros(0, dtype=f"S{HASH}"), np.zeros((0, 2), dtype=np.int64)
        if hashes:
            self._known, first = np.unique(np.concatenate(hashes), return_index=True)
            self._place = np.concatenate(places)[first]

    def _opened(self) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
        """Yield the name, the meta and the table of each shard that may be read."""
        keys = {stat.key for stat in self._store.list(f"{self.prefix}/")}
        for key in sorted(key for key in keys if key.endswith(f"/{MANIFEST}")):
            shard = key.removesuffix(f"/{MANIFEST}")
            if f"{shard}/{DISTRUSTED}" in keys or self._only not in ("", shard):
                continue
            try:
                manifest, paths = local_files(self._store, shard, self._cache / shard.removeprefix("features/"))
                if is_outdated(manifest.meta, self._least):
                    self.outdated.append(shard)
                    continue
                yield shard, manifest.meta, pa.ipc.open_file(pa.memory_map(str(paths[FILE]))).read_all()
            except (Damaged, NotFound, pa.ArrowInvalid, KeyError) as error:
                self.refused[shard] = str(error)

    def narrow(self, only: str = "") -> None:
        """Read this shard alone from now on, or all of them again: a row may be in several."""
        self._only = only
        self.refresh()

    def prefixes(self) -> list[str]:
        """Return the names of the open shards."""
        return list(dict.fromkeys(shard.prefix for shard in self._shards))

    def shard(self, place: Sequence[int]) -> Shard:
        """Return the shard that holds a place from `find`."""
        return self._shards[int(place[0])]

    def chunk_shards(self) -> NDArray[np.int64]:
        """Return a number of the shard of each chunk, (chunks,); chunks of one shard have the same."""
        names = {shard.prefix: number for number, shard in enumerate(self._shards)}
        return np.array([names[shard.prefix] for shard in self._shards], dtype=np.int64)

    def shards_of(self, run: str) -> list[Shard]:
        """Return the shards that a run wrote."""
        return list(dict.fromkeys(shard for shard in self._shards if shard.run == run))

    def outdated_shards(self) -> list[Shard]:
        """Return the shards of a version below the least that is read."""
        return [Shard(prefix, "") for prefix in self.outdated]

    def distrust(self, shards: Iterable[Shard], why: str) -> None:
        """Set shards aside: neither this run nor a later one reads them."""
        for shard in shards:
            self._store.put(f"{shard.prefix}/{DISTRUSTED}", json.dumps({"why": why, "run": shard.run}).encode())

    def find(self, hashes: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return (rows, 2) places of the rows with these hashes; -1 for a row that the store lacks."""
        if not len(self._known):
            return np.full((len(hashes), 2), -1)
        at = np.minimum(np.searchsorted(self._known, hashes), len(self._known) - 1)
        return np.where((self._known[at] == hashes)[:, None], self._place[at], -1)

    def read(self, place: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return one row's values at a place from `find`, as a tensor on read-only mapped memory."""
        return self._chunks[int(place[0])].tensor(int(place[1]), dtype)

    def writer(self, scratch: Path) -> ShardWriter:
        """Return a writer of one more shard, whose rows are visible after its commit."""
        return ShardWriter(self._store, f"{self.prefix}/{uuid4().hex}", scratch, self._facts)


class _Chunk:
    """One record batch as one tensor on the mapped memory.

    Rows are sliced at offsets held by NumPy: Arrow's scalars would cost a step more than its arithmetic does.
    """

    def __init__(self, values: Any, shapes: Any) -> None:
        self._ends = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
        self._shape_ends = shapes.offsets.to_numpy()
        self._shapes = shapes.values.to_numpy().tolist()
        data = values.buffers()[2]
        bare = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
        with warnings.catch_warnings():
            # The mapped memory is read-only, which torch cannot express; no caller writes to it.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            self._bytes = torch.from_numpy(bare)

    def tensor(self, index: int, dtype: torch.dtype) -> Tensor:
        """Return the values of one row."""
        shape = self._shapes[self._shape_ends[index] : self._shape_ends[index + 1]]
        found = self._bytes[self._ends[index] : self._ends[index + 1]]
        return found.view(dtype).reshape(shape) if len(found) else torch.zeros(shape, dtype=dtype)


def _hashes(column: Any) -> NDArray[Any]:
    """Return (rows,) bytes of a fixed-width column without a Python object for each row."""
    data = np.frombuffer(column.buffers()[1], dtype=f"S{HASH}")
    return data[column.offset : column.offset + len(column)].copy()


class ShardWriter:
    """A shard written to this machine's disk; leaving the context commits it, an error discards it."""

    def __init__(self, store: ObjectStore, prefix: str, scratch: Path, facts: Mapping[str, Any]) -> None:
        self._facts = facts
        self._store, self._prefix, self._path = store, prefix, scratch / f"{uuid4().hex}.arrow"
        self._writer = pa.ipc.new_file(str(self._path), _SCHEMA)
        self._waiting: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
        self.rows = self.bytes = 0

    def add(self, row: bytes, values: Tensor) -> None:
        """Append one row's values, of any dtype."""
        flat = values.detach().cpu().contiguous()
        data = flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        for name, value in (("row", row), ("shape", list(flat.shape)), ("values", data)):
            self._waiting[name].append(value)
        self.rows += 1
        self.bytes += len(data)
        if len(self._waiting["row"]) == PIECE:
            self._flush()

    def _flush(self) -> None:
        arrays = [pa.array(self._waiting[field.name], field.type) for field in _SCHEMA]
        self._writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        for values in self._waiting.values():
            values.clear()

    def _commit(self, meta: Mapping[str, Any]) -> None:
        try:
            commit(self._store, self._prefix, {FILE: self._path}, kind="features", meta=meta)
        except StoreError:
            # On a full disk, the partial file would leave no space for what is written next.
            with suppress(StoreError):
                self._store.delete([f"{self._prefix}/{FILE}"])
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and self.rows:
                self._flush()
                self._writer.close()
                self._commit({**self._facts, "rows": self.rows, "bytes": self.bytes})
            else:
                self._writer.close()
        finally:
            self._path.unlink(missing_ok=True)
