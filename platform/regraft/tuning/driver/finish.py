"""The end of a search: registration of the best, the report, and the outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from regraft.contracts import Note
from regraft.errors import Damaged, NotFound, RunError
from regraft.lazy import Later
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry
from regraft.store.scratch_folder import scratch_folder
from regraft.training.prepare import base_bytes
from regraft.training.registration import beside_baselines
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.prepare import PreparedSearch
from regraft.tuning.driver.registration import register_chosen
from regraft.tuning.driver.search_advice import search_advice
from regraft.tuning.pages.by_base import base_rows
from regraft.tuning.records import TrialRecord, best_first, error_line

log = logging.getLogger(__name__)
page = Later("regraft.tuning.pages.page")
"""Imports matplotlib, which takes half a second; read ahead while trials run."""
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class RegisteredTrial:
    """A trial that a command registered."""

    trial: str
    reference: str
    """`name@version`."""
    value: float | None
    """The deciding metric of the version."""
    note: str = ""
    """What to know where an earlier version scores better."""


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
    """Trial to `name@version`, for all that were ever registered."""
    added: tuple[RegisteredTrial, ...] = ()
    """The trials that this command registered, in this order."""
    verdicts: str = ""
    """The registered winner's score beside the baselines as a sentence; empty where there are none."""
    advice: str = ""
    """What to try next, where a baseline is better than the winner, or the winner was stopped early."""
    gain: dict[str, Any] | None = None
    delta_bytes: int = 0
    base_bytes: int = 0
    report: str = ""
    """Address of the report; empty if it could not be written."""
    already: bool = False
    """Whether the search had finished before this command."""
    test: dict[str, Any] | None = None
    """The result of the registered winner on the test rows; None where there are none."""
    bases: list[dict[str, Any]] = field(default_factory=list)
    """The best trial of each base, the best first; empty where all trials have one base."""
    comparison: dict[str, Any] | None = None
    """The registered winner beside its controls; None where it was not compared."""

    def document(self) -> dict[str, Any]:
        """Return the outcome as `--json` prints it."""
        names = ("model", "version", "run", "metrics", "baselines", "seconds", "store", "trials", "shared")
        more: dict[str, Any] = {"winner": self.winner, "registered": [asdict(one) for one in self.added]}
        found = {"test": self.test, "comparison": self.comparison}
        more |= {"advice": self.advice, **{name: value for name, value in found.items() if value is not None}}
        more |= {"bases": self.bases} if self.bases else {}
        return {name: getattr(self, name) for name in names} | more


@dataclass(frozen=True, slots=True)
class Ending:
    """How a search ends."""

    ran: bool
    """Whether this command ran any trial."""
    report: bool = True
    """Whether a page is written."""


def complete(prepared: PreparedSearch, coordinator: SearchCoordinator, started: float, ending: Ending) -> SearchOutcome:
    """Register the best trials, write the report, and return the outcome.

    `started` is the command's start on the monotonic clock. Raises RunError if no trial has a result.
    """
    record, search_store = prepared.record, prepared.search_store
    trials = coordinator.records()
    ranked = best_first([one for one in trials if one.status in ("finished", "stopped")], record.score)
    if not ranked:
        record.state, record.seconds = "failed", coordinator.seconds
        search_store.write_record(record)
        raise RunError(no_result(trials), where=record.name)
    register_chosen(prepared, coordinator, ranked)
    record.winner, record.state = ranked[0].id, "finished"
    if ending.ran:
        record.seconds = coordinator.seconds
    search_store.write_trials(trials)
    search_store.write_record(record)
    keep = not ending.ran and search_store.store.exists(f"{search_store.folder}/{REPORT}")
    report = report_address(prepared) if keep else write_report(prepared, trials) if ending.report else ""
    outcome = outcome_of(prepared, trials, ranked[0])
    return replace(outcome, report=report, already=not ending.ran, seconds=time.monotonic() - started)


def outcome_of(prepared: PreparedSearch, trials: Sequence[TrialRecord], winner: TrialRecord) -> SearchOutcome:
    """Return the outcome as far as the records determine it."""
    spec, record = prepared.spec, prepared.record.seen_from(winner)
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
            {
                "id": one.id,
                "overrides": one.overrides,
                "metrics": one.best or {},
                "status": one.status,
                "epochs": one.reports[-1]["epoch"] if one.reports else 0,
            }
            for one in trials
        ],
        shared=record.shared,
        score=record.score["name"],
        winner=winner.id,
        overrides=winner.overrides,
        registered={one.id: one.registered for one in trials if one.registered},
        added=added_by(prepared, trials),
        advice=search_advice(spec, record, trials, winner),
        gain=meta.get("gain"),
        test=meta.get("test"),
        verdicts=beside_baselines(meta),
        delta_bytes=int(meta.get("delta_bytes", 0)),
        base_bytes=base_bytes(prepared.base_of(winner)),
        bases=[row.document(record.score["name"]) for row in base_rows(record, trials)],
    )


def added_by(prepared: PreparedSearch, trials: Sequence[TrialRecord]) -> tuple[RegisteredTrial, ...]:
    """Return the trials that this command registered, in that order."""
    known, score = {one.id: one for one in trials}, prepared.record.score["name"]
    found = []
    for trial, better in prepared.added.items():
        reference = str(known[trial].registered)
        value = version_meta_of(prepared.search_store.store, known[trial]).get("metrics", {}).get(score)
        note = better.text(reference, score) if better else ""
        found.append(RegisteredTrial(trial, reference, value, note))
    return tuple(found)


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
    with scratch_folder("regraft-report-") as folder:
        try:
            for path in page.write_report(prepared.record, trials, folder):
                prepared.search_store.write(path.name, path)
        except Exception as error:
            log.info("the report failed", exc_info=True)
            if prepared.progress is not None:
                prepared.progress(Note(f"the report could not be written: {error_line(error)}"))
            return ""
    return report_address(prepared)
