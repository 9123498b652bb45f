"""Do the workers' nodes see what they will read? Asked before they begin, since they would find out only one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from regraft.cluster.connect import living, who_misses
from regraft.data.snapshot import open_snapshot
from regraft.errors import AskedWrong
from regraft.spec import RunSpec
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
    """AskedWrong when a node does not see the base or the plugins that the workers will read.

    Rows are in the snapshot, which lies in the store: tables need not be seen by anybody but the driver.
    """
    refuse_blind(list(folders(spec)))


def check_pictures(spec: RunSpec, job: Job) -> None:
    """The same of the pictures that the snapshot's rows name."""
    refuse_blind([("data", path) for path in pictures(spec, job)])


def refuse_blind(asked: list[tuple[str, str]]) -> None:
    """AskedWrong when a node does not see one of the paths, each with what of the spec named it."""
    nodes = len(living())
    if nodes < 2 or not asked:
        return
    missing = who_misses([path for _, path in asked])
    for where, path in asked:
        if blind := missing[path]:
            raise AskedWrong(f"{blind} of {nodes} nodes do not see {path}: {CURE[where]}", where=where)


def folders(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """The folders of this machine that a spec names besides its data."""
    if Path(spec.base).expanduser().is_dir():
        yield "base", str(Path(spec.base).expanduser().resolve())
    for plugins in spec.plugins:
        yield "plugins", str(Path(plugins).resolve())


def pictures(spec: RunSpec, job: Job) -> list[str]:
    """A picture of each folder that the snapshot's rows name: those of some rows, evenly taken from all."""
    columns = [name for name, kind in spec.task.keeps().items() if kind in ("image", "mask")]
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
