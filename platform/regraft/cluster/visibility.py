"""Check, before workers start, that their nodes see the files that they will read.

Without these checks the workers would fail one by one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from regraft.cluster.connect import alive_nodes, count_nodes_missing, on, usable_nodes
from regraft.contracts import columns_of
from regraft.data.snapshot import open_snapshot
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.store.objects import MARK, open_existing, open_store
from regraft.training.job import Job

SAMPLE = 200
"""Rows of each side whose images are checked."""
REMEDY = {
    "base": "name it by s3://, a hub id or package:, or put it into a folder that every node sees",
    "plugins": "put them into a folder that every node sees, or into the job's working directory",
    "data": "its images are read from where they are: put them into S3, or into a folder that every node sees",
}


def check_folders(spec: RunSpec, bases: Sequence[str] = ()) -> None:
    """Raise RequestError if a node does not see the base or the plugins that the workers will read.

    Only the driver must see tables: their rows are in the snapshot, which is in the store. `bases` are those of a
    search that varies it.
    """
    refuse_unseen(list(folders(spec, bases)))


def check_images(spec: RunSpec, job: Job) -> None:
    """Raise RequestError if a node does not see the images that the snapshot's rows name."""
    refuse_unseen([("data", path) for path in images(spec, job)])


def refuse_unseen(paths: list[tuple[str, str]]) -> None:
    """Raise RequestError if a node does not see one of `paths`: pairs of the spec's field and the path."""
    nodes = len(usable_nodes())
    if nodes < 2 or not paths:
        return
    missing = count_nodes_missing([path for _, path in paths])
    for where, path in paths:
        if blind := missing[path]:
            raise RequestError(f"{blind} of {nodes} nodes do not see {path}: {REMEDY[where]}", where=where)


def folders(spec: RunSpec, bases: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the local folders that a spec names besides its data, each with its field."""
    for base in bases or (spec.base,):
        if Path(base).expanduser().is_dir():
            yield "base", str(Path(base).expanduser().resolve())
    for plugins in spec.plugins:
        yield "plugins", str(Path(plugins).resolve())


def images(spec: RunSpec, job: Job) -> list[str]:
    """Return one image path for each folder that an even sample of the rows names."""
    columns = [name for name, column in columns_of(spec.task.stored_columns()).items() if column.by_reference]
    if not columns:
        return []
    snapshot = open_snapshot(open_existing(spec.store), job.fingerprint)
    found: dict[Path, str] = {}
    for rows in snapshot.sides.values():
        for index in np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows)), dtype=int)):
            row = rows.stored(int(index))
            named = [row[name] for name in columns]
            found |= {Path(path).parent: path for path in named if isinstance(path, str) and "://" not in path}
    return list(found.values())


MARKER = ".regraft-seen-"
"""Prefix of empty files that a client makes to check who sees a folder; a store's listing leaves them out."""
_MOST_NAMES = 1000
_MOST_MARK_BYTES = 4096
OUTPUT_REMEDY = {
    "store": "use s3://bucket/prefix, or a folder that every node mounts at the same place",
    "output": "write s3://bucket/key, or a file in a folder that every node mounts at the same place",
}
INPUT_REMEDY = (
    "put it into S3 (s3://bucket/key), or into a folder that every node mounts at the same place; small files "
    "below the folder that you submit from are sent with the job"
)


def seen_at(store: str) -> Path:
    """Return what shows that two machines see the same store in a folder: its mark, else the folder."""
    mark = Path(store, MARK)
    return mark if mark.is_file() else Path(store)


def proof(path: str) -> str:
    """Return a proof that two machines see the same path.

    It is the id in a store's mark, a hash of a folder's first names, or the size of another file.
    """
    if os.path.isdir(path):
        names = sorted(os.listdir(path))[:_MOST_NAMES]
        return hashlib.sha256("\0".join(names).encode()).hexdigest()
    if os.path.basename(path) == MARK:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read(_MOST_MARK_BYTES)).hexdigest()
    return str(os.stat(path).st_size)


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def proofs(paths: Sequence[str]) -> list[str]:
    """Return the proofs of `paths` as this node finds them; empty for a path that does not exist."""
    found = []
    for path in paths:
        try:
            found.append(proof(path))
        except OSError:
            found.append("")
    return found


def count_unlike(paths: Sequence[str], wanted: Sequence[str], nodes: Sequence[str] | None = None) -> list[int]:
    """Count for each path the nodes, by default all usable ones, whose proof of it is another one."""
    nodes = [node["NodeID"] for node in usable_nodes()] if nodes is None else nodes
    seen = ray.get([proofs.options(scheduling_strategy=on(node)).remote(list(paths)) for node in nodes])
    return [sum(found[number] != proven for found in seen) for number, proven in enumerate(wanted)]


def check_shared(shared: Sequence[Mapping[str, Any]]) -> None:
    """Raise RequestError if a node does not see the client's files under the same paths.

    Each item of `shared` has `where` (the field that names it), `path` and `proof`. Deletes the client's marker files.
    """
    nodes = [node["NodeID"] for node in alive_nodes()]
    paths = [item["path"] for item in shared]
    for item, blind in zip(shared, count_unlike(paths, [item["proof"] for item in shared], nodes), strict=True):
        if blind:
            path = _folder_shown(item)
            raise RequestError(
                f"{blind} of {len(nodes)} nodes do not see {path} as the machine that submitted the job does: it is "
                f"missing or different there; {OUTPUT_REMEDY.get(item['where'], INPUT_REMEDY)}",
                where=item["where"],
            )
    for path in paths:
        if Path(path).name.startswith(MARKER):
            Path(path).unlink(missing_ok=True)


def _folder_shown(item: Mapping[str, Any]) -> str:
    """Return the path to name to users: the folder of a marker file or of a store's mark, else the path itself."""
    path = Path(item["path"])
    return str(path.parent) if path.name == MARK or path.name.startswith(MARKER) else str(path)


def check_store(url: str, *, creates: bool = False) -> None:
    """Raise RequestError for a store in a folder that some node does not see: it would not see what is written there.

    `creates` means that the command makes a store where there is none. Nothing else is written: nodes compare what is
    there already, since the folder may be one of a lost mount, or may only be read.
    """
    if url.startswith("s3://"):
        return
    _refuse_the_jobs_folder(url, "store")
    nodes = len(usable_nodes())
    if nodes < 2:
        return
    if creates:
        store = open_store(url)
        store.begin()
        store.create()
    path = str(seen_at(url))
    if Path(path).exists():
        _refuse_blind(sum(count_unlike([path], [proof(path)])), nodes, url, "store")


def check_output_folder(folder: str) -> None:
    """Raise RequestError for an existing folder of an output that some node does not see; a missing one is not made."""
    if folder.startswith("s3://"):
        return
    _refuse_the_jobs_folder(folder, "output")
    nodes = len(usable_nodes())
    if nodes < 2 or not Path(folder).is_dir():
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-") as marker:
        _refuse_blind(count_nodes_missing([marker.name])[marker.name], nodes, folder, "output")


def _refuse_the_jobs_folder(url: str, where: str) -> None:
    if "runtime_resources" in Path(url).parts:
        raise RequestError(
            f"{url} lies in the job's own working directory, which is deleted with it: write an absolute folder that "
            "every node sees, or s3://bucket/prefix",
            where=where,
        )


def _refuse_blind(blind: int, nodes: int, url: str, where: str) -> None:
    if blind:
        raise RequestError(
            f"{blind} of {nodes} nodes do not see {url} as this machine does: use s3://bucket/prefix or a shared "
            "folder",
            where=where,
        )
