"""Do the workers' nodes see what they will read? Asked before they begin, since they would find out only one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from regraft.cluster.connect import living, on, who_misses
from regraft.contracts import columns_of
from regraft.data.snapshot import open_snapshot
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.job import Job

SAMPLE = 200
"""Rows of each side whose pictures are looked for."""
CURE = {
    "base": "name it by s3://, a hub id or package:, or put it into a folder that every node sees",
    "plugins": "put them into a folder that every node sees, or into the job's working directory",
    "data": "its pictures are read where they lie: put them into S3, or into a folder that every node sees",
}


def check_folders(spec: RunSpec) -> None:
    """RequestError when a node does not see the base or the plugins that the workers will read.

    Rows are in the snapshot, which lies in the store: tables need not be seen by anybody but the driver.
    """
    refuse_blind(list(folders(spec)))


def check_pictures(spec: RunSpec, job: Job) -> None:
    """The same of the pictures that the snapshot's rows name."""
    refuse_blind([("data", path) for path in pictures(spec, job)])


def refuse_blind(asked: list[tuple[str, str]]) -> None:
    """RequestError when a node does not see one of the paths, each with what of the spec named it."""
    nodes = len(living())
    if nodes < 2 or not asked:
        return
    missing = who_misses([path for _, path in asked])
    for where, path in asked:
        if blind := missing[path]:
            raise RequestError(f"{blind} of {nodes} nodes do not see {path}: {CURE[where]}", where=where)


def folders(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """The folders of this machine that a spec names besides its data."""
    if Path(spec.base).expanduser().is_dir():
        yield "base", str(Path(spec.base).expanduser().resolve())
    for plugins in spec.plugins:
        yield "plugins", str(Path(plugins).resolve())


def pictures(spec: RunSpec, job: Job) -> list[str]:
    """A picture of each folder that the snapshot's rows name: those of some rows, evenly taken from all."""
    columns = [name for name, column in columns_of(spec.task.stored_columns()).items() if column.by_reference]
    if not columns:
        return []
    snapshot = open_snapshot(open_store(spec.store), job.fingerprint)
    found: dict[Path, str] = {}
    for rows in (snapshot.train, snapshot.eval):
        for index in np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows)), dtype=int)):
            row = rows.stored(int(index))
            named = [row[name] for name in columns]
            found |= {Path(path).parent: path for path in named if isinstance(path, str) and "://" not in path}
    return list(found.values())


MARKER = ".regraft-seen-"
"""How a file begins whose only use is to be looked for; the store shows no such name."""
_MOST_NAMES = 1000
HOW = {
    "store": "use s3://bucket/prefix, or a folder that every node mounts at the same place",
    "output": "write s3://bucket/key, or a file in a folder that every node mounts at the same place",
}
ELSE = (
    "put it into S3 (s3://bucket/key), or into a folder that every node mounts at the same place; what lies below the "
    "folder that you submit from and is small travels with the job"
)


def proof(path: str) -> str:
    """What is to be found under `path` wherever the same files lie: a file's size, a folder's first names."""
    if os.path.isdir(path):
        names = sorted(os.listdir(path))[:_MOST_NAMES]
        return hashlib.sha256("\0".join(names).encode()).hexdigest()
    return str(os.stat(path).st_size)


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def look(paths: Sequence[str]) -> list[str]:
    """The proofs of `paths` as this node finds them; empty for one that is not there."""
    found = []
    for path in paths:
        try:
            found.append(proof(path))
        except OSError:
            found.append("")
    return found


def check_shared(shared: Sequence[Mapping[str, Any]]) -> None:
    """RequestError when a node does not see, under the same path, what the client had there.

    Each of `shared` has `where` (the field that names it), `path` and `proof`.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    paths = [item["path"] for item in shared]
    seen = ray.get([look.options(scheduling_strategy=on(node)).remote(paths) for node in nodes])
    for number, item in enumerate(shared):
        blind = sum(found[number] != item["proof"] for found in seen)
        if blind:
            path = str(Path(item["path"]).parent) if item["where"] in HOW else item["path"]
            raise RequestError(
                f"{path} is of the machine that submitted the job: {blind} of {len(nodes)} nodes do not see it, or "
                f"something else under that path; {HOW.get(item['where'], ELSE)}",
                where=item["where"],
            )
    for path in paths:
        if Path(path).name.startswith(MARKER):
            Path(path).unlink(missing_ok=True)
