"""Snapshots of the data: rows checked once by the driver, stored, and memory-mapped by every worker."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Task
from regraft.data.base_reading import BaseReading
from regraft.data.ingest import BY_NAME, FORMAT, IngestedRows, ingest
from regraft.data.local_cache import file_sha256, local_files
from regraft.data.rows import Rows
from regraft.errors import Conflict, Damaged, NotFound
from regraft.spec.sections import DataSpec
from regraft.store.atomic_files import writing_locally
from regraft.store.machine_cache import cache_folder
from regraft.store.manifest import MANIFEST, commit, load
from regraft.store.objects import ObjectStore
from regraft.store.schemas import StoredSnapshot, check_types

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The training and evaluation rows, read by index; equal fingerprints mean equal rows."""

    fingerprint: str
    labels: tuple[str, ...]
    """The training rows' labels in the order of the head's outputs; empty when the task has none."""
    train: Rows
    eval: Rows
    meta: Mapping[str, Any]
    """`task`, `columns` (name to kind), `labels`, `rows` (per side), `format`."""
    skipped: Mapping[str, Any] = field(default_factory=dict)
    """Bad rows left out of the snapshot: their number per side (`train`, `eval`), and messages (`rows`)."""
    notes: tuple[str, ...] = ()
    """Sentences about what was passed over, and about rows that are usable but doubtful."""
    overlap: int | None = None
    """Number of evaluation rows whose inputs are those of a training row; None where it was not counted."""
    test: Rows | None = None
    """Rows that are measured once, at the end; None where the spec names none."""
    target: Rows | None = None
    """Rows of another domain, without targets to predict; None where the spec names none."""
    test_overlap: Mapping[str, int] | None = None
    """Number of test rows whose inputs are those of a row of train, and of eval; None where not counted."""
    groups: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
    """Equal numbers for training rows that belong together (`data.group`), (rows,); known where rows were just read."""

    @property
    def sides(self) -> dict[str, Rows]:
        """The rows of each side that there is, by name."""
        more = {"test": self.test, "target": self.target}
        present = {name: rows for name, rows in more.items() if rows is not None}
        return {"train": self.train, "eval": self.eval, **present}

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows of each side that there is."""
        return {name: len(rows) for name, rows in self.sides.items()}


def build_snapshot(
    store: ObjectStore,
    task: Task,
    data: DataSpec,
    *,
    base: BaseReading | None = None,
    as_in: str | None = None,
) -> Snapshot:
    """Read and check the rows of `data`, store them in `<store>/data/<fingerprint>/`, and open the snapshot.

    A snapshot that exists is not written again. A row that `base` cannot read is a bad row. `as_in` is the fingerprint
    of a snapshot whose version of the fingerprint is kept, so that equal rows have the same one. Raises DataError,
    which names file and row.
    """
    with tempfile.TemporaryDirectory(prefix="regraft-data-") as scratch:
        with writing_locally(Path(scratch)):
            ingested = ingest(task, data, Path(scratch), base, form=_form(store, as_in))
        _store_rows(store, ingested, task)
        facts: dict[str, Any] = {
            name: getattr(ingested, name) for name in ("skipped", "notes", "overlap", "test_overlap", "groups")
        }
        try:
            return replace(open_snapshot(store, ingested.fingerprint), **facts)
        except Damaged as error:
            if not _repair(store, ingested):
                raise
            log.warning("%s: written again from the data just read", error)
            return replace(open_snapshot(store, ingested.fingerprint), **facts)


def open_snapshot(store: ObjectStore, fingerprint: str, cache: Path | None = None) -> Snapshot:
    """Return the snapshot of that fingerprint, memory-mapped and verified.

    Files of a store in a folder are mapped in place. Files in S3 are downloaded once per machine into the folder
    `cache` (`~/.cache/regraft/data`, or `data` in REGRAFT_CACHE if set). If several processes need them, one downloads
    and the others wait. Raises NotFound, and Damaged with the file's name.
    """
    manifest, paths = local_files(store, f"data/{fingerprint}", (cache or cache_folder("data")) / fingerprint)
    meta = manifest.meta
    check_types(meta, StoredSnapshot, f"{store.url}/data/{fingerprint}/{MANIFEST}")
    sides = {name: Rows(paths[f"{name}.arrow"], meta["columns"]) for name in ("train", "eval")}
    test, target = (
        Rows(paths[f"{name}.arrow"], meta["columns"]) if f"{name}.arrow" in paths else None
        for name in ("test", "target")
    )
    return Snapshot(fingerprint, tuple(meta["labels"]), sides["train"], sides["eval"], meta, test=test, target=target)


def _form(store: ObjectStore, fingerprint: str | None) -> int:
    """Return the version of a stored snapshot's fingerprint; the newest where the snapshot cannot be read."""
    if fingerprint is None:
        return FORMAT
    try:
        found = load(store, f"data/{fingerprint}").meta.get("format")
    except (NotFound, Damaged):
        return FORMAT
    return BY_NAME if found == BY_NAME else FORMAT


def _store_rows(store: ObjectStore, ingested: IngestedRows, task: Task) -> None:
    """Commit the files as a snapshot unless it exists; a damaged manifest is replaced."""
    prefix = f"data/{ingested.fingerprint}"
    try:
        load(store, prefix)
        return
    except NotFound:
        pass
    except Damaged as error:
        log.warning("%s: written again from the data just read", error)
        store.delete([f"{prefix}/{MANIFEST}"])
    meta = {
        "format": ingested.format,
        "task": task.key(),
        "columns": dict(task.stored_columns()),
        "labels": list(ingested.labels),
        "rows": ingested.rows,
    }
    try:
        commit(store, prefix, ingested.files, kind="snapshot", meta=meta)
    except Conflict:
        log.info("%s was written by another driver at the same time", prefix)


def _repair(store: ObjectStore, ingested: IngestedRows) -> bool:
    """Write the files again if their hashes match the manifest; return whether they match."""
    prefix = f"data/{ingested.fingerprint}"
    manifest = load(store, prefix)
    if any(file_sha256(ingested.files[entry.name]) != entry.sha256 for entry in manifest.files):
        return False
    for name, path in ingested.files.items():
        store.put(f"{prefix}/{name}", path)
    return True
