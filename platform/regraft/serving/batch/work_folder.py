"""The work folder of an unfinished output: its place, its lease, and its removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from regraft.errors import Damaged, RequestError
from regraft.store.bounded_json import get_bounded, parse_json
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.store.schemas import Stored, check_types

JOB, DONE = "job.json", "done.json"
"""The request that began the output, and the size of the complete output, written right before it appears."""


class WorkJob(Stored):
    """The request that began an output, and the precision that it computes in."""

    identity: dict[str, Any]
    dtype: str


class CompleteOutput(Stored):
    """The size of a complete output."""

    size: int


class StoredBlocks(Stored):
    """The blocks of an input: their rows, their hashes, and the version of the hash."""

    rows: list[int]
    hashes: list[str]
    format: int | None = Field(None, ge=1)


def read_work(store: ObjectStore, key: str, schema: type[Stored]) -> dict[str, Any]:
    """Return a document of the work folder. Raises Damaged, with the way on, for anything else."""
    where = f"{store.url}/{key}"
    try:
        document: dict[str, Any] = parse_json(get_bounded(store, key))
        check_types(document, schema, where)
    except (ValueError, Damaged) as error:
        problem = error.message if isinstance(error, Damaged) else f"cannot be read: {error}"
        raise Damaged(f"{problem}. --fresh begins the output anew", where) from None
    return document


def work_folder(output: str) -> str:
    """Return the work folder of an output: beside it, so that a rename completes the output."""
    folder, _, name = output.rpartition("/")
    return f"{folder}/.{name}.unfinished"


def refuse_existing(output: str, store: ObjectStore, *, fresh: bool) -> None:
    """Raise RequestError when the output exists, or its folder does not."""
    if output.startswith("s3://"):
        folder, _, name = output.rpartition("/")
        size = next((stat.size for stat in open_store(folder).list(name) if stat.key == name), None)
    else:
        size = Path(output).stat().st_size if Path(output).exists() else None
        if Path(output).is_dir():
            raise RequestError("a folder has this name: name another output", where=output)
        if not Path(output).parent.is_dir():
            raise RequestError(f"there is no folder {Path(output).parent}: make it first", where=output)
    ours = store.exists(JOB) and store.exists(DONE) and _complete_size(store) == size
    if size is not None and not fresh and not ours:
        raise RequestError("exists already: name another output, or pass --fresh to replace it", where=output)


@contextmanager
def cleared(store: ObjectStore, output: str) -> Iterator[Lease]:
    """Hold the lease of the work folder; a work folder without a job is removed at the end."""
    with Lease(store, Path(output).name) as lease:
        try:
            yield lease
        finally:
            if not lease.lost.is_set() and not store.exists(JOB):
                # While the lease is held: afterwards the folder may belong to another command.
                empty(store)
                store.delete([stat.key for stat in store.list()])
                _remove_folder(store)


def empty(store: ObjectStore) -> None:
    """Delete everything in the work folder; the job's document first, without which the rest does not count."""
    store.delete([JOB])
    store.delete([stat.key for stat in store.list() if not stat.key.endswith("lease.json")])


def _remove_folder(store: ObjectStore) -> None:
    """Remove the lock and the folders that a local store leaves behind."""
    root = Path(store.url)
    if store.url.startswith("s3://") or not root.is_dir():
        return
    with suppress(OSError):
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        root.rmdir()


def _complete_size(store: ObjectStore) -> int | None:
    """Return the size of the complete output; None where the document that holds it is damaged."""
    try:
        size: int = read_work(store, DONE, CompleteOutput)["size"]
    except Damaged:
        return None
    return size
