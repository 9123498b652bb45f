"""`regraft gc`: delete what crashed processes left unfinished in a store, and say what stays and why."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from regraft.cli.screen import Reply, Screen, store_of
from regraft.errors import LeaseHeld, RegraftError
from regraft.lazy import Later
from regraft.store.checkpoints import Checkpoints
from regraft.store.lease import holder
from regraft.store.machine_cache import CachedFolder, cache_folder, cached_folders
from regraft.store.objects import ObjectStore, open_store
from regraft.store.optimizer_states import UnneededStates, unneeded_states
from regraft.store.registry import Registry
from regraft.store.scratch_folder import sweep_scratch
from regraft.store.searches import folder_of
from regraft.store.unneeded import Unneeded, unneeded_checkpoints, unneeded_rows
from regraft.trunk.feature_store import collect as collect_features
from regraft.trunk.shard_faults import shard_faults
from regraft.units import bytes_text

_outputs = Later("regraft.training.kept_outputs")
_copies = Later("regraft.bases.private_copy")
_DAY_S = 24 * 3600.0
"""Age below which an object is kept, longer than any upload: it may be about to be committed."""
_KEPT = {
    "models": "registered versions; `regraft models delete NAME@VERSION` removes one",
    "runs": "records and checkpoints, from which unfinished runs go on; versions do not need them: "
    "`regraft runs delete RUN`",
    "searches": "records, reports and the checkpoints of the best trials (search.keep), which can be registered; "
    "`regraft runs delete SEARCH`",
    "adaptations": "records and pages of `regraft adapt`",
    "automatic": "records, pages and specs of `regraft auto`",
    "selections": "records and pages of `regraft select`",
    "features": "outputs of frozen parts, which speed up later runs of the same base and rows: delete the folder, or "
    "a part of it, to free space; runs compute again what they miss. `regraft gc --verify` removes wrong ones",
    "data": "the checked rows of runs and searches; a command that misses them reads its files again",
}
"""Why each folder of a store stays."""


def collect(args: argparse.Namespace, screen: Screen) -> Reply:
    """Delete uncommitted checkpoints, aborted publications and temporary files; list what else could go."""
    store = open_store(store_of(args.store))
    sizes = {stat.key: stat.size for stat in store.list()}
    gone = _unfinished(store, sizes)
    temporary = (*store.sweep(_DAY_S), *map(str, sweep_scratch()))
    freed = sum(count for key, count in sizes.items() if key.startswith(tuple(gone)))
    for prefix in (*gone, *temporary):
        screen.note(f"removed {prefix}")
    screen.say(
        f"{store.url}: {len(gone)} unfinished checkpoints, versions and features ({bytes_text(freed)}) "
        f"and {len(temporary)} temporary files removed; those younger than a day are kept"
    )
    freed += (verified := _verify(store, args.verify, screen) if args.verify is not None else 0)
    cached = _show_cache(args.cache, screen)
    states = unneeded_states(store)
    dropped = _drop(store, states, screen) if args.optimizer_states else _list(states, screen)
    asked = (
        ("data", "rows that no run or search names", unneeded_rows(store, _DAY_S)),
        ("checkpoints", "checkpoints of registered runs", unneeded_checkpoints(store)),
    )
    dropped += sum(_offer(flag, what, found, screen, remove=getattr(args, flag)) for flag, what, found in asked)
    kept = _show_kept(store, screen)
    return Reply(
        {
            "store": store.url,
            "removed": gone,
            "temporary": list(temporary),
            "freed_bytes": freed + dropped,
            "features_bytes": kept.get("features", 0),
            "optimizer_states": [
                {kind: getattr(one, kind) for kind in ("kind", "name", "bytes")} | {"checkpoints": len(one.found)}
                for one in states
            ],
            "optimizer_states_removed": bool(args.optimizer_states),
            "kept_bytes": kept,
            "verified_bytes": verified,
            "unneeded": {flag: [{"name": one.name, "bytes": one.bytes} for one in found] for flag, _, found in asked},
            "cache_bytes": cached,
        }
    )


def _unfinished(store: ObjectStore, keys: Iterable[str]) -> list[str]:
    """Delete what was never committed, and return its prefixes.

    What a held lease protects stays, whatever its age by any clock: its run or search may be about to commit it.
    """
    keys = list(keys)
    runs = sorted({key.split("/")[1] for key in keys if key.startswith("runs/") and key.count("/") > 1})
    trials = _trials(keys)
    searches = sorted({search for search, _ in trials})
    held_runs = {run for run in runs if holder(store, run)}
    held_searches = {search for search in searches if holder(store, search, folder=folder_of(search))}
    gone = [prefix for run in runs if run not in held_runs for prefix in Checkpoints(store, run).collect(_DAY_S)]
    gone += [
        prefix
        for search, trial in trials
        if search not in held_searches
        for prefix in Checkpoints.of_trial(store, search, trial).collect(_DAY_S)
    ]
    gone += Registry(store).collect(_DAY_S)
    if held_runs or held_searches:  # any of them may be writing outputs of a trunk
        return gone
    return gone + collect_features(store, _DAY_S)[0]


def _verify(store: ObjectStore, run: str, screen: Screen) -> int:
    """Delete kept outputs that do not agree; return the freed bytes. Those of a run are computed again first."""
    if run:
        notes, rows = _outputs.verify_kept(store, run, lambda event: screen.note(getattr(event, "message", "")))
        for text in notes:
            screen.note(text)
        screen.say(f"{rows} rows of run {run} have kept outputs, and these are what its base computes")
    faults, count = shard_faults(store)
    for fault in faults:
        fault.remove(store)
        writer = f"run {fault.run}" if fault.run else "an unknown run"
        screen.note(f"removed {fault.prefix} ({bytes_text(fault.bytes)}, written by {writer}): {fault.why}")
    screen.say(
        f"kept outputs: {count - len(faults)} of {count} parts are as they were written. Whether they are what a model "
        "computes is known only from rows and base: `regraft gc --verify RUN` computes those of a run again"
    )
    return sum(fault.bytes for fault in faults)


def _show_cache(remove: bool, screen: Screen) -> int:
    """Show how much this machine's cache holds, or delete what was not used for a day; return the bytes that stay."""
    folders = cached_folders()
    idle = [one for one in folders if one.idle_s > _DAY_S]
    kept = sum(one.bytes for one in folders)
    if remove:
        kept -= sum(_removed(one, screen) for one in idle)
        _copies.forget_removed()
    elif idle:
        screen.say(
            f"this machine's cache {cache_folder('')}: {bytes_text(kept)}, of which "
            f"{bytes_text(sum(one.bytes for one in idle))} were not used for a day; `regraft gc --cache` removes these"
        )
    return kept


def _removed(folder: CachedFolder, screen: Screen) -> int:
    """Delete a folder of the machine's cache unless a process holds it; return the freed bytes."""
    if not folder.remove():
        screen.note(f"{folder.path} stays: a process uses it, or it cannot be deleted")
        return 0
    screen.note(f"removed {folder.path} ({bytes_text(folder.bytes)})")
    return folder.bytes


def _list(states: Sequence[UnneededStates], screen: Screen) -> int:
    """List the optimizer states that nothing will read again, without deleting them."""
    if states:
        total = bytes_text(sum(one.bytes for one in states))
        screen.say(f"optimizer states of finished runs ({total}), which no step will read again:")
        screen.table(("  run", "checkpoints", "size"), [_row(one) for one in states])
        screen.say("  `regraft gc --optimizer-states` removes them; deltas, metrics and versions stay as they are")
    return 0


def _drop(store: ObjectStore, states: Sequence[UnneededStates], screen: Screen) -> int:
    """Delete these optimizer states and return the freed bytes."""
    freed = 0
    for one in states:
        try:
            count = one.drop(store)
        except LeaseHeld as error:
            screen.note(f"the optimizer states of {one.name} stay: {error}")
            continue
        screen.note(f"removed the optimizer states of {one.kind} {one.name} ({bytes_text(count)})")
        freed += count
    if not states:
        screen.say("no finished run has optimizer states")
    return freed


def _offer(flag: str, what: str, found: Sequence[Unneeded], screen: Screen, *, remove: bool) -> int:
    """Delete what nothing needs, or say which flag does; return the freed bytes."""
    if not remove:
        if found:
            size = bytes_text(sum(one.bytes for one in found))
            screen.say(f"{what}: {len(found)} ({size}); `regraft gc --{flag}` removes them")
        return 0
    freed = 0
    for one in found:
        try:
            one.drop()
        except RegraftError as error:
            screen.note(f"{one.name} stays: {error}")
            continue
        screen.note(f"removed {what}: {one.name} ({bytes_text(one.bytes)})")
        freed += one.bytes
    return freed


def _row(one: UnneededStates) -> tuple[object, ...]:
    return f"  {one.name}", len(one.found), bytes_text(one.bytes)


def _show_kept(store: ObjectStore, screen: Screen) -> Mapping[str, int]:
    """Show what the store holds now, and why; return the bytes of each folder."""
    sizes: dict[str, int] = defaultdict(int)
    for stat in store.list():
        sizes[stat.key.partition("/")[0]] += stat.size
    if sizes:
        screen.head("what stays, and why")
        other = "not written by regraft, or by a later edition"
        rows = [
            (f"  {folder}/" if folder in _KEPT else f"  {folder}", bytes_text(count), _KEPT.get(folder, other))
            for folder, count in sorted(sizes.items(), key=lambda item: -item[1])
        ]
        screen.table(("  folder", "size", ""), rows)
    return dict(sizes)


def _trials(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Return (search, trial) for all trials that have checkpoints, committed or not."""
    parts = (key.split("/") for key in keys if key.startswith("searches/"))
    return sorted({(part[1], part[3]) for part in parts if len(part) > 5 and part[2] == "trials"})
