"""The end of a search: registration of the best, the report, and the outcome."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from regraft.contracts import Note
from regraft.errors import Damaged, NotFound, RunError
from regraft.lazy import Later
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry
from regraft.training.prepare import base_bytes
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.prepare import PreparedSearch
from regraft.tuning.driver.registration import register_best
from regraft.tuning.records import TrialRecord, best_first, error_line

log = logging.getLogger(__name__)
page = Later("regraft.tuning.pages.page")
"""Imports matplotlib, which takes half a second; read ahead while trials run."""
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """The outcome of a finished search."""

    model: str
    version: str | None
    """The winner's version; None if nothing was registered."""
    run: str
    """The search's name."""
    metrics: dict[str, float]
    baselines: dict[str, Any]
    seconds: float
    """Wall time of this command."""
    store: str
    trials: list[dict[str, Any]]
    shared: dict[str, Any]
    score: str
    winner: str
    overrides: dict[str, Any]
    registered: dict[str, str] = field(default_factory=dict)
    """Trial to `name@version`."""
    gain: dict[str, Any] | None = None
    delta_bytes: int = 0
    base_bytes: int = 0
    report: str = ""
    """Address of the report; empty if it could not be written."""
    already: bool = False
    """Whether the search had finished before this command."""

    def document(self) -> dict[str, Any]:
        """Return the outcome as `--json` prints it."""
        names = ("model", "version", "run", "metrics", "baselines", "seconds", "store", "trials", "shared")
        return {name: getattr(self, name) for name in names}


def complete(prepared: PreparedSearch, coordinator: SearchCoordinator, started: float, *, ran: bool) -> SearchOutcome:
    """Register the best trials, write the report, and return the outcome.

    `started` is the command's start on the monotonic clock, `ran` whether it ran any trial. Raises RunError if no trial
    has a result.
    """
    record, search_store = prepared.record, prepared.search_store
    trials = coordinator.records()
    ranked = best_first([one for one in trials if one.status in ("finished", "stopped")], record.score)
    if not ranked:
        record.state, record.seconds = "failed", coordinator.seconds
        search_store.write_record(record)
        raise RunError(no_result(trials), where=record.name)
    register_best(prepared, coordinator, ranked)
    record.winner, record.state = ranked[0].id, "finished"
    if ran:
        record.seconds = coordinator.seconds
    search_store.write_trials(trials)
    search_store.write_record(record)
    keep = not ran and search_store.store.exists(f"{search_store.folder}/{REPORT}")
    report = report_address(prepared) if keep else write_report(prepared, trials)
    outcome = outcome_of(prepared, trials, ranked[0])
    return replace(outcome, report=report, already=not ran, seconds=time.monotonic() - started)


def outcome_of(prepared: PreparedSearch, trials: Sequence[TrialRecord], winner: TrialRecord) -> SearchOutcome:
    """Return the outcome as far as the records determine it."""
    spec, record = prepared.spec, prepared.record
    meta = version_meta_of(prepared.search_store.store, winner)
    return SearchOutcome(
        model=spec.name,
        version=winner.registered.rpartition("@")[2] if winner.registered else None,
        run=record.name,
        metrics=dict(winner.best or {}),
        baselines=record.baselines,
        seconds=record.seconds,
        store=spec.store,
        trials=[
            {"id": one.id, "overrides": one.overrides, "metrics": one.best or {}, "status": one.status}
            for one in trials
        ],
        shared=record.shared,
        score=record.score["name"],
        winner=winner.id,
        overrides=winner.overrides,
        registered={one.id: one.registered for one in trials if one.registered},
        gain=meta.get("gain"),
        delta_bytes=int(meta.get("delta_bytes", 0)),
        base_bytes=base_bytes(prepared.base),
    )


def read_ahead() -> None:
    """Import the report's libraries while trials run; an error is reported when the report is written."""
    with suppress(Exception):
        _ = page.write_report


def version_meta_of(store: ObjectStore, winner: TrialRecord) -> dict[str, Any]:
    """Return the metadata of the winner's version; empty if it has none, or it was deleted since."""
    if winner.registered is None:
        return {}
    name, _, version = winner.registered.rpartition("@")
    try:
        return Registry(store).version(name, version).meta
    except (NotFound, Damaged) as error:
        log.info("%s", error)
        return {}


def no_result(records: Sequence[TrialRecord]) -> str:
    """Return the message for a search without a winner."""
    failed = [record for record in records if record.error]
    if not failed:
        return "no trial came to a result within the budget: allow more search.seconds; the same command goes on"
    return f"no trial came to a result; the first of {len(failed)} failed with: {failed[0].error}"


def report_address(prepared: PreparedSearch) -> str:
    """Return the address of the report in the store."""
    return f"{prepared.search_store.store.url}/{prepared.search_store.folder}/{REPORT}"


def write_report(prepared: PreparedSearch, trials: Sequence[TrialRecord]) -> str:
    """Write the report beside the records and return its address; empty, with a note, if it cannot be made."""
    with tempfile.TemporaryDirectory(prefix="regraft-report-") as folder:
        try:
            for path in page.write_report(prepared.record, trials, Path(folder)):
                prepared.search_store.write(path.name, path)
        except Exception as error:
            log.info("the report failed", exc_info=True)
            if prepared.progress is not None:
                prepared.progress(Note(f"the report could not be written: {error_line(error)}"))
            return ""
    return report_address(prepared)
