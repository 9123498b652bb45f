"""`regraft runs`: what was trained in a store, and how far it came."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from regraft.cli.screen import Reply, Screen, figure, size, store_of
from regraft.errors import Damaged, NotThere
from regraft.store.checkpoints import Checkpoints, Saved
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.store.searches import searches, told

_LINES = 12
"""Metric lines shown of a run; --json has all of them."""


def listing(args: argparse.Namespace, screen: Screen) -> Reply:
    """`runs list`: every run, the last updated first."""
    store = open_store(store_of(args.store))
    runs = [
        {"run": info.name, "model": info.model, "state": info.state, "step": info.step, "updated": _time(info.updated)}
        for info in Runs(store).list()
    ]
    found = [
        {"search": name, **{key: record.get(key) for key in ("model", "state", "trials", "winner")}}
        for name in searches(store)
        for record in (told(store, name),)
    ]
    if runs:
        screen.table(("run", "model", "state", "step", "updated"), [tuple(run.values()) for run in runs])
    elif not found:
        screen.say(f"no runs in {store.url}; `regraft train SPEC` makes one, --store names another store")
    if found:
        screen.table(("search", "model", "state", "trials", "winner"), [tuple(one.values()) for one in found])
    return Reply({"store": store.url, "runs": runs, "searches": found})


def show(args: argparse.Namespace, screen: Screen) -> Reply:
    """`runs show`: a run's record, its checkpoints, and the last lines of its metrics."""
    store = open_store(store_of(args.store))
    runs = Runs(store)
    record = {key: value for key, value in runs.info(args.run).fields.items() if key not in ("format", "change")}
    checkpoints = [_checkpoint(saved) for saved in Checkpoints(store, args.run).listed()]
    metrics = _metrics(runs, args.run)
    screen.head(args.run)
    screen.facts([(key, _plain(key, value)) for key, value in record.items() if key != "baseline_correct"])
    if checkpoints:
        screen.head("checkpoints")
        rows = [(f"  {found['step']}", found["id"], _size(found), _told(found["metrics"])) for found in checkpoints]
        screen.table(("  step", "id", "size", "metrics"), rows)
    if metrics:
        screen.head(f"metrics (the last {min(_LINES, len(metrics))} of {len(metrics)} lines)")
        for line in metrics[-_LINES:]:
            screen.say(f"  {_told(line)}")
    return Reply({"store": store.url, "run": args.run, **record, "checkpoints": checkpoints, "log": metrics})


def _checkpoint(saved: Saved) -> dict[str, Any]:
    entry: dict[str, Any] = {"step": saved.step, "id": saved.id, "metrics": {}}
    try:
        return {**entry, "bytes": saved.manifest.size, "metrics": saved.meta.get("metrics") or {}}
    except (Damaged, NotThere) as error:  # named, and the others still shown
        return {**entry, "damaged": str(error)}


def _size(checkpoint: dict[str, Any]) -> str:
    return "damaged" if "damaged" in checkpoint else size(checkpoint["bytes"])


def _metrics(runs: Runs, run: str) -> list[dict[str, Any]]:
    try:
        text = runs.read(run, "metrics.jsonl").decode("utf-8", "replace")
    except NotThere:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            found.append({"unreadable": line})
    return found


def _told(values: dict[str, Any]) -> str:
    return "  ".join(f"{name} {figure(value)}" for name, value in values.items())


def _plain(key: str, value: object) -> str:
    if key == "updated" and isinstance(value, int | float):
        return _time(value)
    if isinstance(value, dict):
        nested = any(isinstance(item, dict) for item in value.values())
        parts = (f"{name}{':' if nested else ''} {_plain('', item)}" for name, item in value.items())
        return ("; " if nested else ", ").join(parts)
    return figure(value)


def _time(seconds: float) -> str:
    """Unix seconds as UTC to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
