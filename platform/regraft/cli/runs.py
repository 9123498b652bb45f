"""`regraft runs`: the runs of a store, trained on any machine: their results and logs; how to stop and delete them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from regraft.cli.screen import Reply, Screen, confirmed, figure, store_of
from regraft.cli.train_progress import line_of, step_text
from regraft.contracts import Event, Registered, RunFailed, Stepped
from regraft.errors import Damaged, NotFound, RequestError
from regraft.store.adaptations import adaptations, read_adaptation
from regraft.store.adaptations import folder_of as folder_of_adaptation
from regraft.store.bounded_json import parse_json
from regraft.store.checkpoints import Checkpoints, SavedCheckpoint
from regraft.store.deletion import Deletable, deletable
from regraft.store.deletion import delete as delete_work
from regraft.store.lease import holder
from regraft.store.objects import ObjectStore, open_store
from regraft.store.run_results import run_result, search_result
from regraft.store.runs import LOG, RunInfo, Runs, parse_event
from regraft.store.searches import folder_of, search_record, searches
from regraft.units import bytes_text, finite_number, seconds_text

_LONG = ("baseline_correct", "plan", "outcome")
"""Fields of a record that --json alone has whole."""
_LINES = 12
"""Metric lines shown of a run; --json has all of them."""
_RUN_COLUMNS = ("run", "model", "state", "step", "score", "time", "version", "updated")
_SEARCH_COLUMNS = ("search", "model", "state", "trials", "score", "time", "winner")
_ADAPTATION_COLUMNS = ("adaptation", "model", "state", "chosen", "version")
_LONGEST = 200
"""Characters shown of a line that cannot be read."""
_LOOK_S = 1.0
"""Seconds between two checks of a run that is waited for."""


def listing(args: argparse.Namespace, screen: Screen) -> Reply:
    """List every run, the last updated first (`runs list`)."""
    store = open_store(store_of(args.store))
    runs = [_run(store, info) for info in Runs(store).list()]
    found = [_search(store, name) for name in searches(store)]
    if runs:
        screen.table(_RUN_COLUMNS, [_row(run, _RUN_COLUMNS) for run in runs])
    elif not found:
        screen.say(f"no runs in {store.url}; `regraft train SPEC` makes one, --store names another store")
    if found:
        screen.table(_SEARCH_COLUMNS, [_row(one, _SEARCH_COLUMNS) for one in found])
    adapted = [_adaptation(store, name) for name in adaptations(store)]
    if adapted:
        screen.table(_ADAPTATION_COLUMNS, [tuple(one[column] for column in _ADAPTATION_COLUMNS) for one in adapted])
    for one in (*runs, *found):
        if "damaged" in one:
            screen.note(f"{one.get('run') or one['search']} is damaged: {one['damaged']}")
    more = {"adaptations": adapted} if adapted else {}
    return Reply({"store": store.url, "runs": runs, "searches": found, **more})


def show(args: argparse.Namespace, screen: Screen) -> Reply:
    """Show a run's record, its checkpoints, and the last lines of its metrics (`runs show`)."""
    store = open_store(store_of(args.store))
    runs = Runs(store)
    _refuse_search(store, args.run)
    info = runs.info(args.run)
    record = {key: value for key, value in info.fields.items() if key not in ("format", "change")}
    if record.get("state") == "running":
        driver = holder(store, args.run)
        record |= {"state": state_of(store, info)}
        record |= {"driver": f"process {driver['pid']} on {driver['host']}"} if driver else {}
    checkpoints = [_checkpoint(saved) for saved in Checkpoints(store, args.run).listed()]
    metrics = _metrics(runs, args.run)
    screen.head(args.run)
    screen.facts([(key, _plain(key, value)) for key, value in record.items() if key not in _LONG])
    screen.facts(list(_beside_plan(record)))
    if checkpoints:
        screen.head("checkpoints")
        rows = [
            (f"  {found['step']}", found["id"], _size(found), _metrics_text(found["metrics"])) for found in checkpoints
        ]
        screen.table(("  step", "id", "size", "metrics"), rows)
    if metrics:
        screen.head(f"metrics (the last {min(_LINES, len(metrics))} of {len(metrics)} lines)")
        for line in metrics[-_LINES:]:
            screen.say(f"  {_metrics_text(line)}")
    return Reply({"store": store.url, "run": args.run, **record, "checkpoints": checkpoints, "log": metrics})


def _beside_plan(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a run took beside what was planned, where its record has both."""
    plan, outcome = record.get("plan"), record.get("outcome")
    if not isinstance(plan, dict) or not isinstance(outcome, dict):
        return
    for name, key in (("memory", "peak_bytes"), ("checkpoint", "checkpoint_bytes")):
        planned, real = finite_number(plan.get(key)), finite_number(outcome.get(key))
        if planned is not None and real is not None:
            yield name, f"{bytes_text(real)}, planned {bytes_text(planned)}"


def stop(args: argparse.Namespace, screen: Screen) -> Reply:
    """Ask the process that drives the run to end it at the next step, with a checkpoint (`runs stop`)."""
    store = open_store(store_of(args.store))
    runs = Runs(store)
    _refuse_search(store, args.run)
    info = runs.info(args.run)
    driver = holder(store, info.name)
    if driver is None:
        raise RequestError(
            f"no process drives it now (its state is {state_of(store, info)}), so there is nothing to stop",
            where=info.name,
        )
    runs.request_stop(info.name)
    screen.note(f"asked process {driver['pid']} on {driver['host']} to stop at the next step")
    end = time.monotonic() + args.wait
    while time.monotonic() < end and holder(store, info.name) is not None:
        time.sleep(_LOOK_S)
    found = runs.info(info.name)
    if holder(store, info.name) is None:
        goes_on = "" if found.state == "registered" else "; the same `regraft train` continues it"
        screen.say(f"{info.name}: {found.state} at step {found.step}{goes_on}")
    else:
        screen.say(f"{info.name} has not stopped yet; `regraft runs show {info.name}` shows when it has")
    return Reply({"store": store.url, "run": info.name, "state": state_of(store, found), "step": found.step})


def delete(args: argparse.Namespace, screen: Screen) -> Reply:
    """Delete runs and searches that no process drives (`runs delete`); versions that they registered stay."""
    store = open_store(store_of(args.store))
    found = [deletable(store, name) for name in dict.fromkeys(args.runs)]  # all, before any is deleted
    for one in found:
        screen.note(f"{one.kind} {one.name}: {bytes_text(one.bytes)}, {_lost(one)}")
    total = bytes_text(sum(one.bytes for one in found))
    what = found[0].name if len(found) == 1 else f"these {len(found)}"
    if not args.yes and not confirmed(f"delete {what} ({total}) from {store.url}? [y/N] "):
        screen.say("nothing was deleted")
        return Reply({"store": store.url, "deleted": [], "freed_bytes": 0}, code=1)
    done: list[dict[str, Any]] = []
    for one in found:
        delete_work(store, one)
        done.append({"kind": one.kind, "name": one.name, "bytes": one.bytes, "versions": list(one.versions)})
        screen.say(f"{one.name} is deleted")
    return Reply({"store": store.url, "deleted": done, "freed_bytes": sum(one["bytes"] for one in done)})


def _lost(one: Deletable) -> str:
    """Return what is lost with a run or a search, and what is not."""
    if one.kind == "adaptation":
        return f"{one.state}; its runs and versions stay"
    if one.versions:
        stay = "stays: it has" if len(one.versions) == 1 else "stay: they have"
        return f"{one.state}; {', '.join(one.versions)} {stay} copies of all that is needed"
    unfinished = one.state not in ("registered", "finished")
    goes_on = "; the same command could go on from its checkpoints until now" if unfinished else ""
    return f"{one.state}, no version was registered from it{goes_on}"


def _run(store: ObjectStore, info: RunInfo) -> dict[str, Any]:
    return {
        "run": info.name,
        "model": info.model,
        "state": state_of(store, info),
        "step": info.step,
        **run_result(store, info).document(),
        "version": info.fields.get("version"),
        "updated": _time(info.updated),
        **({"damaged": info.problem} if info.problem else {}),
    }


def _search(store: ObjectStore, name: str) -> dict[str, Any]:
    record = search_record(store, name)
    found = {"search": name, **{key: record.get(key) for key in ("model", "state", "trials", "winner")}}
    if found["state"] == "running" and holder(store, name, folder=folder_of(name)) is None:
        found["state"] = "interrupted"
    damaged = {"damaged": record["problem"]} if record.get("state") == "damaged" and "problem" in record else {}
    return found | search_result(store, name, record).document() | damaged


def _adaptation(store: ObjectStore, name: str) -> dict[str, Any]:
    record = read_adaptation(store, name) or {"state": "damaged"}
    found = {key: record.get(key) or "" for key in ("model", "state", "chosen", "version")}
    if found["state"] == "running" and holder(store, name, folder=folder_of_adaptation(name)) is None:
        found["state"] = "interrupted"
    return {"adaptation": name, **found}


def _row(entry: dict[str, Any], columns: tuple[str, ...]) -> tuple[object, ...]:
    """Return the cells of a run or search; the column `time` shows its seconds."""
    score = ", ".join(f"{name} {figure(value)}" for name, value in entry["score"].items())
    seconds = "" if entry["seconds"] is None else seconds_text(entry["seconds"])
    shown = entry | {"score": score, "time": seconds}
    return tuple(shown[column] for column in columns)


def _refuse_search(store: ObjectStore, name: str) -> None:
    """Raise RequestError for the name of a search: a search has no steps, and does not look for stop requests."""
    if name not in searches(store):
        return
    driver = holder(store, name, folder=folder_of(name))
    by = f"process {driver['pid']} on {driver['host']} drives it" if driver else "no process drives it now"
    raise RequestError(
        f"that is a search ({by}), not a run: its trials and report are in {store.url}/{folder_of(name)}. Ctrl-C or "
        "SIGTERM ends it where it runs, `ray job stop` where it was submitted; the same `regraft search` goes on",
        where=name,
    )


def logs(args: argparse.Namespace, screen: Screen) -> Reply:
    """Print the log of a run (`runs logs`); with -f follow it until no process drives the run."""
    store = open_store(store_of(args.store))
    runs = Runs(store)
    _refuse_search(store, args.run)
    info = runs.info(args.run)
    printed: list[dict[str, Any]] = []
    while True:
        driven = args.follow and holder(store, info.name) is not None
        fresh = since(_events(runs, info.name), printed)
        for document in fresh:
            if (text := log_line(document, verbose=screen.verbose)) is not None:
                screen.say(text)
        printed += fresh
        if not driven:
            break
        time.sleep(_LOOK_S)
    if not printed:
        screen.say(f"the log of {info.name} is empty so far")
    return Reply({"store": store.url, "run": info.name, "log": printed})


def since(documents: list[dict[str, Any]], printed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the documents after the last printed one.

    A log loses its oldest lines, so a position in it means nothing.
    """
    if not printed or printed[-1] not in documents:
        return [document for document in documents if document not in printed]
    return documents[len(documents) - documents[::-1].index(printed[-1]) :]


def log_line(document: dict[str, Any], *, verbose: bool = False) -> str | None:
    """Return a line of the log as text with its time (UTC); None for an event that is not shown."""
    match event := Event.parse(document):
        case None:
            return None
        case Stepped():
            text: str | None = f"step {event.step}/{event.steps}  {step_text(event)}"
        case RunFailed():
            text = f"ended: {event.kind}: {event.message}"
        case Registered():
            text = f"{event.model}@{event.version} is registered"
        case _:
            text = line_of(event, verbose=verbose)
    when = document.get("time")
    stamp = datetime.fromtimestamp(when, UTC).strftime("%m-%d %H:%M:%S") if isinstance(when, int | float) else ""
    return None if text is None else f"{stamp}  {text}"


def _events(runs: Runs, run: str) -> list[dict[str, Any]]:
    try:
        lines = runs.read(run, LOG).decode("utf-8", "replace").splitlines()
    except NotFound:
        return []
    return [event for line in lines if (event := parse_event(line)) is not None]


def state_of(store: ObjectStore, info: RunInfo) -> str:
    """Return the run's state; `interrupted` for one that is recorded as running and has no driver."""
    return "interrupted" if info.state == "running" and holder(store, info.name) is None else info.state


def _checkpoint(saved: SavedCheckpoint) -> dict[str, Any]:
    entry: dict[str, Any] = {"step": saved.step, "id": saved.id, "metrics": {}}
    try:
        return {**entry, "bytes": saved.manifest.size, "metrics": saved.meta.get("metrics") or {}}
    except (Damaged, NotFound) as error:  # named, and the others still shown
        return {**entry, "damaged": str(error)}


def _size(checkpoint: dict[str, Any]) -> str:
    return "damaged" if "damaged" in checkpoint else bytes_text(checkpoint["bytes"])


def _metrics(runs: Runs, run: str) -> list[dict[str, Any]]:
    try:
        text = runs.read(run, "metrics.jsonl").decode("utf-8", "replace")
    except NotFound:
        return []
    found = []
    for line in text.splitlines():
        try:
            value = parse_json(line)
        except ValueError:
            value = None
        found.append(value if isinstance(value, dict) else {"unreadable": line[:_LONGEST]})
    return found


def _metrics_text(values: dict[str, Any]) -> str:
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
    """Return Unix seconds as UTC to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
