"""Does every node see what did not travel with a job? A path means something only where the same files lie under it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from regraft.cluster.connect import on
from regraft.errors import AskedWrong

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
    """AskedWrong when a node does not see, under the same path, what the client had there.

    Each of `shared` has `where` (the field that names it), `path` and `proof`.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    paths = [item["path"] for item in shared]
    seen = ray.get([look.options(scheduling_strategy=on(node)).remote(paths) for node in nodes])
    for number, item in enumerate(shared):
        blind = sum(found[number] != item["proof"] for found in seen)
        if blind:
            path = str(Path(item["path"]).parent) if item["where"] in HOW else item["path"]
            raise AskedWrong(
                f"{path} is of the machine that submitted the job: {blind} of {len(nodes)} nodes do not see it, or "
                f"something else under that path; {HOW.get(item['where'], ELSE)}",
                where=item["where"],
            )
    for path in paths:
        if Path(path).name.startswith(MARKER):
            Path(path).unlink(missing_ok=True)
