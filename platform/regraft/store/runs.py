"""The small documents of runs: record, log, stop request."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from regraft.errors import Damaged, NotFound
from regraft.store import documents, names
from regraft.store.bounded_json import parse_json
from regraft.store.documents import Document
from regraft.store.objects import Body, ObjectStore, checked
from regraft.store.schemas import StoredRun

RECORD = "run.json"
STOP = "stop.json"
"""Exists while the run is requested to stop."""
LOG = "log.jsonl"
"""The log of the run, one event a line."""
METRICS = "metrics.jsonl"
"""Losses and evaluations, one line each."""

_log = logging.getLogger(__name__)
_RunList = list["RunInfo"]
_Documents = list[Document]


@dataclass(frozen=True)
class RunInfo:
    """The content of `run.json`: `updated` in Unix seconds; state "damaged" if it cannot be read."""

    name: str
    state: str = "unknown"
    step: int = 0
    updated: float = 0.0
    model: str = ""
    fields: Document = field(default_factory=dict, repr=False, compare=False)
    """All fields that were given to `update`."""
    problem: str = field(default="", compare=False)
    """Why a damaged one cannot be read."""


class Runs:
    """The small documents of runs, under `runs/<run>/`."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def write(self, run: str, document: str, data: Body) -> None:
        """Write or replace a document (`spec.yaml`, `metrics.jsonl`) of `run`."""
        self.store.put(_key(run, document), data)

    def read(self, run: str, document: str) -> bytes:
        """Return the bytes of a document of `run`. Raises NotFound."""
        return self.store.get(_key(run, document))

    def find(self, run: str) -> Document | None:
        """Return the fields of `run.json`, None if the run does not exist. Raises Damaged if it cannot be read."""
        try:
            return documents.read(self.store, _key(run, RECORD), StoredRun)
        except NotFound:
            return None

    def info(self, run: str) -> RunInfo:
        """Return state and progress of `run`. Raises NotFound, with the most similar name, or Damaged."""
        record = self.find(run)
        if record is None:
            raise names.unknown("run", run, [info.name for info in self.list()], self.store.url)
        return _info(run, record)

    def update(self, run: str, **fields: Any) -> Document:
        """Set `fields` in `run.json` and leave the others unchanged; safe against concurrent updates."""

        def edit(old: Document | None) -> Document:
            return {**(old or {}), **fields, "name": run, "updated": time.time()}

        return documents.change(self.store, _key(run, RECORD), edit, on_damaged=_warn_fields_lost, schema=StoredRun)

    def metric_lines(self, run: str) -> _Documents:
        """Return the lines of the run's metrics.jsonl; none if it has none."""
        return documents.json_lines(self.store, _key(run, METRICS))

    def request_stop(self, run: str) -> None:
        """Request the driver of `run` to stop at the next step, with a checkpoint."""
        self.store.put(_key(run, STOP), documents.encode({"asked": time.time()}))

    def stop_requested(self, run: str) -> bool:
        """Return whether `run` is requested to stop; the existence of the document counts, even if it is damaged."""
        return self.store.exists(_key(run, STOP))

    def clear_stop(self, run: str) -> None:
        """Withdraw the stop request, so that a run that is started again continues."""
        self.store.delete([_key(run, STOP)])

    def list(self) -> _RunList:
        """Return all runs that have a `run.json`, the last updated first."""
        found = []
        for stat in self.store.list("runs/"):
            run, slash, document = stat.key.removeprefix("runs/").rpartition("/")
            if document != RECORD or not slash or "/checkpoints/" in f"{run}/":
                continue
            try:
                found.append(_info(run, documents.read(self.store, stat.key, StoredRun)))
            except Damaged as error:
                found.append(RunInfo(run, state="damaged", updated=stat.modified, problem=str(error)))
            except NotFound:
                continue
        return sorted(found, key=lambda info: -info.updated)


@dataclass(frozen=True)
class RunDocument:
    """The `run.json` of one run."""

    runs: Runs
    run: str

    def read(self) -> Document:
        """Return its fields, none where there is no such run; raises Damaged when it cannot be read."""
        return self.runs.find(self.run) or {}

    def update(self, **fields: Any) -> None:
        """Set `fields` and leave the others as they are."""
        self.runs.update(self.run, **fields)


def parse_event(line: str) -> dict[str, Any] | None:
    """Return a line of a log as an event; None if it is not one."""
    try:
        event = parse_json(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _key(run: str, document: str) -> str:
    return checked(f"runs/{run}/{document}")


def _info(run: str, record: Document) -> RunInfo:
    step, updated = record.get("step"), record.get("updated")
    return RunInfo(
        name=run,
        state=str(record.get("state", "unknown")),
        step=step if isinstance(step, int) else 0,
        updated=float(updated) if isinstance(updated, int | float) else 0.0,
        model=str(record.get("model", "")),
        fields=record,
    )


def _warn_fields_lost(error: Damaged) -> None:
    _log.warning("%s; it is replaced and its other fields are lost", error)
