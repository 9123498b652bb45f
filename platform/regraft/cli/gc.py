"""`regraft gc`: delete what crashed processes left unfinished in a store."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from regraft.cli.screen import Reply, Screen, store_of
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.trunk.feature_store import collect as collect_features
from regraft.units import bytes_text

_DAY_S = 24 * 3600.0
"""Age below which an object is kept, longer than any upload: it may be about to be committed."""


def collect(args: argparse.Namespace, screen: Screen) -> Reply:
    """Delete uncommitted checkpoints, aborted publications and the store's own temporary files."""
    store = open_store(store_of(args.store))
    sizes = {stat.key: stat.size for stat in store.list()}
    runs = sorted({key.split("/")[1] for key in sizes if key.startswith("runs/") and key.count("/") > 1})
    gone = [prefix for run in runs for prefix in Checkpoints(store, run).collect(_DAY_S)]
    gone += [
        prefix
        for search, trial in _trials(sizes)
        for prefix in Checkpoints.of_trial(store, search, trial).collect(_DAY_S)
    ]
    gone += Registry(store).collect(_DAY_S)
    features, kept = collect_features(store, _DAY_S)
    gone += features
    temporary = store.sweep(_DAY_S)
    freed = sum(count for key, count in sizes.items() if key.startswith(tuple(gone)))
    for prefix in (*gone, *temporary):
        screen.note(f"removed {prefix}")
    screen.say(
        f"{store.url}: {len(gone)} unfinished checkpoints, versions and features ({bytes_text(freed)}) "
        f"and {len(temporary)} temporary files removed; those younger than a day are kept"
    )
    if kept:
        screen.say(
            f"features/ holds {bytes_text(kept)} of kept outputs of frozen parts, which speed up later runs of the "
            "same base and rows: delete the folder, or a part of it, to free space; runs compute again what they miss"
        )
    return Reply(
        {
            "store": store.url,
            "removed": gone,
            "temporary": list(temporary),
            "freed_bytes": freed,
            "features_bytes": kept,
        }
    )


def _trials(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Return (search, trial) for all trials that have checkpoints, committed or not."""
    parts = (key.split("/") for key in keys if key.startswith("searches/"))
    return sorted({(part[1], part[3]) for part in parts if len(part) > 5 and part[2] == "trials"})
