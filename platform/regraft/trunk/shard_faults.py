"""Shards of kept outputs that are not to be read: set aside, changed since they were written, or out of form.

Values can be computed again only with the rows and the base of a run: `training.kept_outputs` does that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from regraft.data.local_cache import file_sha256
from regraft.errors import Damaged, NotFound
from regraft.store.bounded_json import get_bounded, parse_json
from regraft.store.manifest import MANIFEST, Manifest, load
from regraft.store.objects import ObjectStore
from regraft.store.scratch_folder import scratch_folder
from regraft.trunk.feature_store import DISTRUSTED, FILE, HASH


@dataclass(frozen=True, slots=True)
class ShardFault:
    """A shard that is not to be read, and the reason."""

    prefix: str
    run: str
    why: str
    bytes: int

    def remove(self, store: ObjectStore) -> None:
        """Delete the shard; the manifest first, so that a crash leaves nothing that is read."""
        store.delete([f"{self.prefix}/{MANIFEST}"])
        store.delete([stat.key for stat in store.list(f"{self.prefix}/")])


def shard_faults(store: ObjectStore) -> tuple[list[ShardFault], int]:
    """Read all committed shards; return those that are not to be read, and how many there are in all."""
    shards: dict[str, dict[str, int]] = defaultdict(dict)
    for stat in store.list("features/"):
        prefix, _, name = stat.key.rpartition("/")
        shards[prefix][name] = stat.size
    committed = {prefix: sizes for prefix, sizes in sorted(shards.items()) if MANIFEST in sizes}
    found = []
    for prefix, sizes in committed.items():
        run, why = _examined(store, prefix, set_aside=DISTRUSTED in sizes)
        if why:
            found.append(ShardFault(prefix, run, why, sum(sizes.values())))
    return found, len(committed)


def _examined(store: ObjectStore, prefix: str, *, set_aside: bool) -> tuple[str, str]:
    """Return the run that wrote a shard, and what is wrong with it; empty where nothing is."""
    run = ""
    try:
        manifest = load(store, prefix)
        run = str(manifest.meta.get("run") or "")
        if set_aside:
            return run, _mark(store, prefix)
        with _table(store, prefix, manifest) as table:
            return run, "" if _in_form(table) else "its rows do not have the sizes that they say"
    except (Damaged, NotFound, pa.ArrowInvalid, KeyError, TypeError) as error:
        return run, str(error)


@contextmanager
def _table(store: ObjectStore, prefix: str, manifest: Manifest) -> Iterator[Any]:
    """Open a shard whose bytes are those of its manifest. Raises Damaged."""
    entry = manifest.entry(FILE)
    with scratch_folder() as folder:
        path: Path | None = store.local(f"{prefix}/{FILE}")
        if path is None:
            path = folder / FILE
            store.fetch(f"{prefix}/{FILE}", path)
        if path.stat().st_size != entry.size or file_sha256(path) != entry.sha256:
            raise Damaged(f"{FILE} does not have the bytes that were written")
        with pa.memory_map(str(path)) as file:
            yield pa.ipc.open_file(file).read_all()


def _mark(store: ObjectStore, prefix: str) -> str:
    """Return why a shard was set aside."""
    try:
        known = parse_json(get_bounded(store, f"{prefix}/{DISTRUSTED}"))
    except (ValueError, Damaged):
        known = None
    return str(known["why"]) if isinstance(known, dict) and known.get("why") else "it was set aside"


def _in_form(table: Any) -> bool:
    """Return whether every row has a key, and as many bytes as its shape has numbers of one size."""
    for batch in table.to_batches():
        if batch.column("row").type != pa.binary(HASH) or batch.column("row").null_count:
            return False
        sizes = compute.binary_length(batch.column("values")).to_numpy(zero_copy_only=False)
        counts = np.array([math.prod(shape) for shape in batch.column("shape").to_pylist()])
        widths = set((sizes[counts > 0] / counts[counts > 0]).tolist())
        if sizes[counts == 0].any() or len(widths) > 1 or not widths <= {1.0, 2.0, 4.0, 8.0, 16.0}:
            return False
    return True
