"""An automatic run from data to a registered model: look, choose a base, search, train the winner again, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from regraft.automatic import page
from regraft.automatic.base_candidates import base_candidates
from regraft.automatic.base_choice import BaseChoice, choose_base, known_choice, stored_choice
from regraft.automatic.clock import WINNER, BudgetClock
from regraft.automatic.outcome import AutoOutcome
from regraft.automatic.request import AutoRequest
from regraft.automatic.row_cost import forward_seconds
from regraft.automatic.run_spec import run_spec
from regraft.automatic.trials import DoneTrial, MethodSearches
from regraft.automatic.tried_methods import LeftOut, RowCosts, TriedMethod, controls_seconds, methods_for
from regraft.automatic.usable_bases import CheckedBase, refuse_none, verdicts
from regraft.bases.locate import Base
from regraft.contracts import NotesOnce, Progress, note
from regraft.data.look.look import DataLook, LookRequest, look_at
from regraft.data.snapshot import Snapshot
from regraft.errors import DataError, RequestError, RunError, Stopped, StoreError
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.store.automatic_runs import PAGE, SPEC, automatic_folder, read_automatic_run, write_automatic_run
from regraft.store.documents import of_known_keys
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.training.prepare import build_rows
from regraft.training.registration import Outcome
from regraft.tuning.driver.finish import SearchOutcome
from regraft.units import counted, seconds_text

MOST_BAD = 0.2
"""Share of bad rows from which data are refused."""


@dataclass(frozen=True)
class AutoMeans:
    """How runs and searches are carried out."""

    train: Callable[[RunSpec], Outcome]
    compared: Callable[[RunSpec, Callable[[], float]], Outcome]
    """Trains a spec and its controls; a control that would take longer than the seconds that are left is left out."""
    search: Callable[[RunSpec], SearchOutcome]


@dataclass
class _AutoRun:
    """The store, the name and the sink of one automatic run, and what its record says."""

    store: ObjectStore
    request: AutoRequest
    means: AutoMeans
    progress: Progress | None
    clock: BudgetClock
    record: dict[str, Any]
    lease: Lease

    def write(self, **fields: Any) -> None:
        """Write the record with some fields changed."""
        self.record |= {**fields, "budget": self.request.budget, "spent": round(self.clock.spent, 2)}
        write_automatic_run(self.store, self.request.key, self.record)

    def keep(self, **fields: Any) -> None:
        """Write fields of a record that may be that of a finished run: its budget stays."""
        self.record |= {**fields, "spent": round(self.clock.spent, 2)}
        write_automatic_run(self.store, self.request.key, self.record)


@dataclass(frozen=True)
class _Ready:
    """What is known before anything is trained."""

    look: DataLook
    choice: BaseChoice
    spec: RunSpec
    base: Base
    snapshot: Snapshot


def auto_session(request: AutoRequest, means: AutoMeans, progress: Progress | None = None) -> AutoOutcome:
    """Make a model of data, within a budget. A lease admits one driver; the same call again continues.

    Raises RequestError where nothing can be decided, before anything is trained.
    """
    progress = progress or NotesOnce(None)
    look = _looked(request, progress)
    store = open_store(request.store)
    store.begin()
    store.check()
    with Lease(store, request.key, folder=automatic_folder(request.key)) as lease:
        known = read_automatic_run(store, request.key) or {}
        clock = BudgetClock(request.budget, float(known.get("spent", 0.0)))
        place = _AutoRun(store, request, means, progress, clock, dict(known), lease)
        ready = _ready(place, look)
        if (outcome := _finished_before(place, ready)) is not None:
            return outcome
        with _recorded(place, ready):
            return _made(place, ready)


def _looked(request: AutoRequest, progress: Progress) -> DataLook:
    """Look at the data, and say what is concluded."""
    look = look_at(LookRequest(request.data, request.task, request.columns, request.format))
    for one in look.conclusions:
        note(progress, f"{one.subject}: {one.finding}{f' ({one.evidence})' if one.evidence else ''}")
    return look


def _ready(place: _AutoRun, look: DataLook) -> _Ready:
    """Choose the base and read the rows. Raises RequestError where no base can do the task."""
    request = place.request
    found: list[CheckedBase] = []
    for one in verdicts(place.store, look, base_candidates(request.bases)):
        found.append(one)
        note(place.progress, f"base {one.named.reference}: {_said(one)}")
    refuse_none(found, look)
    kept: dict[str, Any] = place.record.get("choice") or {}
    if (choice := known_choice(kept, found)) is not None:
        ready = _with_rows(place, look, choice)
        if ready.snapshot.fingerprint == kept.get("fingerprint"):
            return ready
    try:
        choice = choose_base(found, partial(run_spec, request, look), request.budget, place.progress)
    except BaseException:
        place.keep()  # the time counts to the budget of the next attempt
        raise
    ready = _with_rows(place, look, choice)
    place.keep(choice=stored_choice(choice, found, ready.snapshot.fingerprint))
    return ready


def _with_rows(place: _AutoRun, look: DataLook, choice: BaseChoice) -> _Ready:
    """Read the rows for the chosen base. Raises DataError for rows that cannot be used."""
    note(place.progress, f"base: {choice.verdict.named.reference} ({choice.why})")
    spec = run_spec(place.request, look, choice.verdict)
    base = choice.verdict.base
    assert base is not None
    snapshot = build_rows(place.store, spec, base, place.progress)
    _refuse_bad(snapshot, place.request)
    return _Ready(look, choice, spec, base, snapshot)


def _said(one: CheckedBase) -> str:
    if not one.usable:
        return f"cannot ({one.why})"
    return f"can do the task, {one.parameters / 1e6:.1f} million parameters"


def _refuse_bad(snapshot: Snapshot, request: AutoRequest) -> None:
    """Raise DataError where many rows cannot be used, or no row is left to measure on."""
    skipped = sum(count for side, count in snapshot.skipped.items() if isinstance(count, int) and side != "rows")
    rows = sum(snapshot.counts.values())
    if skipped > MOST_BAD * (skipped + rows):
        first = snapshot.skipped["rows"][0] if snapshot.skipped.get("rows") else ""
        count = f"{counted(skipped, 'row')} of {skipped + rows:,}"
        raise DataError(
            f"{count} cannot be used, too many to leave out; the first: {first}",
            where=request.data,
        )
    if not len(snapshot.eval) or snapshot.test is None or not len(snapshot.test):
        raise DataError(
            f"{counted(rows, 'row')} are too few to hold some out for choosing and others for measuring: add rows",
            where=request.data,
        )


def _finished_before(place: _AutoRun, ready: _Ready) -> AutoOutcome | None:
    """Return the outcome of a finished run with the same rows and base, and no larger budget; else None."""
    known = place.record
    same = known.get("fingerprint") == ready.snapshot.fingerprint and known.get("base") == ready.base.hash
    if known.get("state") != "finished" or not same or known.get("budget", 0.0) < place.request.budget:
        return None
    # The store may have moved since.
    outcome = replace(of_known_keys(AutoOutcome, known["outcome"]), **_addresses(place))
    # This finds the finished run, or trains it again where it is gone.
    place.means.train(RunSpec.resolve({**known["spec"], "store": place.request.store}))
    return replace(outcome, already=True, seconds=place.clock.here)


@contextmanager
def _recorded(place: _AutoRun, ready: _Ready) -> Iterator[None]:
    """Record that the run is under way, and how it ended if an error ends it."""
    now = (ready.snapshot.fingerprint, ready.base.hash)
    known = (place.record.get("fingerprint"), place.record.get("base"))
    if "fingerprint" in place.record and known != now:  # what was measured before is of other rows or another base
        place.record = {"choice": place.record.get("choice") or {}}
        place.clock = BudgetClock(place.request.budget, place.clock.here)
    place.write(state="running", fingerprint=ready.snapshot.fingerprint, base=ready.base.hash)
    try:
        yield
    except BaseException as ended:
        with suppress(StoreError):  # the first error is the one to raise
            place.lease.raise_if_lost("another driver took this automatic run over", place.request.key)
            place.write(state="stopped" if isinstance(ended, Stopped | KeyboardInterrupt) else "failed")
        raise


def _made(place: _AutoRun, ready: _Ready) -> AutoOutcome:
    """Search, train the winner again, and report."""
    methods, left_out = _methods(place, ready)
    chosen_at = place.clock.spent
    searches = MethodSearches(
        ready.spec, place.store, place.means.search, place.clock.for_search, place.progress, left_out=left_out
    )
    searches.run(methods, max(place.clock.end * WINNER, 1.0))
    trials = searches.trials()
    if not trials:
        raise RunError("no trial came to a result within the budget: write a longer --budget; the same command goes on")
    searched_at = place.clock.spent
    place.write()
    winner = _affordable(trials, methods, place)
    note(place.progress, f"training {winner.method} again by its spec alone, {_settings(winner)}")
    spec = _final(winner.spec, ready.snapshot)
    trained = _trained(place, methods, winner, spec)
    place.lease.raise_if_lost("another driver took this automatic run over", place.request.key)
    spent = {"asked": place.request.budget, "choice": chosen_at, "search": searched_at - chosen_at}
    spent["end"] = place.clock.spent - searched_at
    outcome = _outcome(place, ready, spec, trained)
    outcome = replace(
        outcome,
        trials=[{**one.document(), "chosen": one is winner} for one in trials],
        left_out=[asdict(one) for one in searches.left_out],
        budget=spent,
    )
    return _reported(place, spec, outcome)


def _methods(place: _AutoRun, ready: _Ready) -> tuple[list[TriedMethod], list[LeftOut]]:
    """Return the methods to try. Raises RequestError for a budget that is less than one epoch of the cheapest."""
    rows = RowCosts(len(ready.snapshot.train), len(ready.snapshot.eval), 0.0)
    methods, left_out = methods_for(ready.spec, ready.base, rows)
    if not methods:
        why = "; ".join(f"{one.method}: {one.why}" for one in left_out)
        raise RequestError(f"no method can adapt {ready.spec.base} to task {ready.spec.task.key()}: {why}", "--bases")
    before = float(place.record.get("forward_s") or 0.0)
    forward = before or forward_seconds(ready.spec, ready.base, ready.snapshot, methods[0].method)
    costs = replace(rows, forward_s=forward)
    methods = sorted((replace(one, costs=costs) for one in methods), key=lambda one: one.seconds(1))
    cheapest = methods[0]
    needed = 2 * cheapest.seconds(1)  # once to search, once to train the winner
    left = place.clock.left()
    if needed > left and not before:  # what goes on has its trials, and ends however late it is
        raise RequestError(_too_little(cheapest, place.clock, left), where="--budget")
    place.write(forward_s=forward)
    return methods, left_out


def _too_little(cheapest: TriedMethod, clock: BudgetClock, left: float) -> str:
    """Return the message for a budget that is less than one epoch of the cheapest method takes."""
    one, rows = cheapest.seconds(1), counted(cheapest.costs.train, "row")
    return (
        f"{seconds_text(clock.budget)} is less than one epoch of the cheapest method takes: {cheapest.method.key()} "
        f"needs about {seconds_text(one)} for {rows} here, in the search and again at the end, and "
        f"{seconds_text(max(left, 0.0))} are left: write --budget {int(clock.spent + 3 * one) + 1}s or more"
    )


def _affordable(trials: list[DoneTrial], methods: Sequence[TriedMethod], auto_run: _AutoRun) -> DoneTrial:
    """Return the best trial that can be trained again in what is left; the quickest where none can.

    A trial may have been quicker than its run will be: heads train together, on outputs that are kept.
    """
    by_name = {one.method.key(): one for one in methods}
    needed = [max(one.seconds, by_name[one.method].seconds()) for one in trials]
    left = auto_run.clock.left()
    fits = [one for one, seconds in zip(trials, needed, strict=True) if seconds <= left]
    if not fits:
        return trials[needed.index(min(needed))]
    if fits[0] is not trials[0]:
        best = trials[0]
        note(
            auto_run.progress,
            f"{best.method} was better ({best.value:.4g}), and training it again takes {needed[0]:.0f} s of the "
            f"{left:.0f} s that are left: a longer --budget takes it; the same command goes on",
        )
    return fits[0]


def _trained(place: _AutoRun, methods: Sequence[TriedMethod], winner: DoneTrial, spec: RunSpec) -> Outcome:
    """Train the winner again, beside its controls where they fit into what is left."""
    needed = controls_seconds(methods, winner.method, spec)
    left = place.clock.left() - winner.seconds
    if needed <= left:
        return place.means.compared(spec, place.clock.left)
    note(
        place.progress,
        f"the controls take about {seconds_text(needed)}, and {seconds_text(max(left, 0.0))} are left: the model is "
        "registered beside its baselines alone; `regraft train SPEC --compare` adds the controls",
    )
    return place.means.train(spec)


def _settings(trial: DoneTrial) -> str:
    return ", ".join(f"{name} {value}" for name, value in trial.settings.items())


def _final(spec: RunSpec, snapshot: Snapshot) -> RunSpec:
    """Return the spec that repeats the model: every number is written, and nothing depends on a measurement.

    What is frozen is kept in memory, so that the values are those of this run and of every other with this spec.
    """
    settled = resolve_auto(spec, len(snapshot.train))
    frozen = settled.method.serves == "head" and not settled.task.random_inputs
    return settled.override({"compute.trunk": "memory" if frozen else "off"})


def _outcome(place: _AutoRun, ready: _Ready, spec: RunSpec, trained: Outcome) -> AutoOutcome:
    return AutoOutcome(
        model=trained.model,
        version=trained.version,
        run=place.request.key,
        task=spec.task.key(),
        base=spec.base,
        method=spec.method.model_dump(mode="json"),
        score=trained.score,
        metrics=trained.metrics,
        test=trained.test,
        baselines=trained.baselines,
        verdicts=trained.verdicts,
        comparison=trained.comparison,
        **_addresses(place),
        look=[asdict(one) for one in ready.look.conclusions],
        bases=ready.choice.bases,
        rows=ready.snapshot.counts,
        notes=list(ready.snapshot.notes),
        advice=trained.advice,
        seconds=place.clock.here,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _addresses(place: _AutoRun) -> dict[str, Any]:
    """Return where the store of this call, the spec and the page are."""
    folder = f"{place.store.url}/{automatic_folder(place.request.key)}"
    return {"store": place.request.store, "spec": f"{folder}/{SPEC}", "page": f"{folder}/{PAGE}"}


def _reported(place: _AutoRun, spec: RunSpec, outcome: AutoOutcome) -> AutoOutcome:
    """Write the spec, the page and the record."""
    folder = automatic_folder(place.request.key)
    text = spec.dump()
    head = (
        f"# Repeats {outcome.model}@{outcome.version} bit for bit on a machine of the same kind with as many threads:\n"
        f"#   regraft train spec.yaml --store NEW-STORE\n"
    )
    place.store.put(f"{folder}/{SPEC}", (head + text).encode())
    place.store.put(f"{folder}/{PAGE}", page.auto_page(outcome, text).encode())
    inside = {**outcome.document(), "store": "", "spec": SPEC, "page": PAGE}  # keys beside the record: a store may move
    place.write(state="finished", outcome=inside, spec=spec.model_dump(mode="json", exclude={"store"}))
    return replace(outcome, seconds=place.clock.here)
