"""The data as training sees them: checked once by the driver, kept in the store, mapped into memory by every worker."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from regraft.contracts import Task
from regraft.data.ingest import FORMAT, Gathered, gather
from regraft.data.local_cache import cache_folder, mapped, sha256
from regraft.data.rows import Rows
from regraft.errors import Conflict, Damaged, NotFound
from regraft.spec.sections import DataSpec
from regraft.store.atomic_files import writing_here
from regraft.store.manifest import MANIFEST, commit, load
from regraft.store.objects import ObjectStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Rows of both sides, by index; the same for everyone who holds the fingerprint."""

    fingerprint: str
    labels: tuple[str, ...]
    """The training rows' labels in the order of the head's outputs; empty where the task has none."""
    train: Rows
    eval: Rows
    meta: Mapping[str, Any]
    """`task`, `columns` (name to kind), `labels`, `rows` (per side), `format`."""
    skipped: Mapping[str, Any] = field(default_factory=dict)
    """Bad rows that were left out when it was built: `train`, `eval` (how many) and `rows` (the first, in words)."""


def build_snapshot(
    store: ObjectStore,
    task: Task,
    data: DataSpec,
    cache: Path | None = None,
    processor: Callable[[], Any] | None = None,
) -> Snapshot:
    """Read and check `data` once, keep them in `<store>/data/<fingerprint>/`, and open them.

    Data that are there already are not written again. DataError names file and row of what does not fit. `cache` is
    as in `open_snapshot`; `processor` gives the base's tokenizer to a task that packs its rows.
    """
    with tempfile.TemporaryDirectory(prefix="regraft-data-") as scratch:
        with writing_here(Path(scratch)):
            gathered = gather(task, data, Path(scratch), processor)
        _keep(store, gathered, task)
        try:
            return replace(open_snapshot(store, gathered.fingerprint, cache), skipped=gathered.skipped)
        except Damaged as error:
            if not _repaired(store, gathered):
                raise
            log.warning("%s: written again from the data just read", error)
            return replace(open_snapshot(store, gathered.fingerprint, cache), skipped=gathered.skipped)


def open_snapshot(store: ObjectStore, fingerprint: str, cache: Path | None = None) -> Snapshot:
    """The snapshot of that fingerprint, memory-mapped and verified; NotFound, or Damaged by name.

    A folder store's own files are mapped. From S3 they are downloaded once per machine into the folder `cache`
    (`~/.cache/regraft/data`, below REGRAFT_CACHE if set); of several processes one downloads and the others wait.
    """
    manifest, paths = mapped(store, f"data/{fingerprint}", (cache or cache_folder("data")) / fingerprint)
    meta = manifest.meta
    train, held = (Rows(paths[name], meta["columns"]) for name in ("train.arrow", "eval.arrow"))
    return Snapshot(fingerprint, tuple(meta["labels"]), train, held, meta)


def _keep(store: ObjectStore, gathered: Gathered, task: Task) -> None:
    prefix = f"data/{gathered.fingerprint}"
    try:
        load(store, prefix)
        return
    except NotFound:
        pass
    except Damaged as error:
        log.warning("%s: written again from the data just read", error)
        store.delete([f"{prefix}/{MANIFEST}"])
    meta = {
        "format": FORMAT,
        "task": task.key(),
        "columns": dict(task.stored_columns()),
        "labels": list(gathered.labels),
        "rows": gathered.rows,
    }
    try:
        commit(store, prefix, gathered.files, kind="snapshot", meta=meta)
    except Conflict:
        log.info("%s was written by another driver at the same time", prefix)


def _repaired(store: ObjectStore, gathered: Gathered) -> bool:
    """Put the files again if they are, byte for byte, what the manifest promises."""
    prefix = f"data/{gathered.fingerprint}"
    manifest = load(store, prefix)
    if any(sha256(gathered.files[entry.name]) != entry.sha256 for entry in manifest.files):
        return False
    for name, path in gathered.files.items():
        store.put(f"{prefix}/{name}", path)
    return True
