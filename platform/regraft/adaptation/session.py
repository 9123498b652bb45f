"""An adaptation from its spec to a decision: train the source, look, try candidates, choose, register, report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regraft.adaptation import runs, words
from regraft.adaptation.choice import choose
from regraft.adaptation.climb import Climb, Heads, Tried
from regraft.adaptation.domains import Domains, head_of
from regraft.adaptation.forward import compute, keep_trunk, last_layer, load_delta
from regraft.adaptation.labelled_check import check_choice, refuse_unusable
from regraft.adaptation.ladder import LABELLED, Ladder, ladder_of
from regraft.adaptation.outcome import AdaptOutcome
from regraft.adaptation.page import adapt_page
from regraft.adaptation.registration import register_chosen
from regraft.adaptation.shift import diagnose
from regraft.adaptation.trained import TrainedModel, Trainer, train_source
from regraft.bases.derived_base import find_base
from regraft.bases.locate import Base
from regraft.contracts import NotesOnce, Progress, note
from regraft.data.row_sample import fit_to_data
from regraft.data.snapshot import Snapshot
from regraft.errors import DataError, NotFound, Stopped, StoreError
from regraft.spec.run import RunSpec
from regraft.store.adaptations import PAGE, folder_of, read_adaptation, write_adaptation
from regraft.store.documents import of_known_keys
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.store.scratch_folder import scratch_folder
from regraft.training.cut_check import CutSite
from regraft.training.distribute import make_accelerator
from regraft.training.harness import LocalHarness
from regraft.training.prepare import build_rows, refuse_small_target
from regraft.training.run import build_model
from regraft.units import counted

FEWEST = 2
"""Fewest rows of a domain of which anything can be known."""


@dataclass(frozen=True)
class AdaptOptions:
    """What a command asks for besides its spec."""

    ladder: tuple[str, ...] | None = None
    """Names of the candidates; None for the usual ones."""
    check: str | None = None
    """Labelled rows of the target."""
    heads: Heads = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    """The store, the name and the sink of one adaptation."""

    store: ObjectStore
    name: str
    progress: Progress
    train: Trainer
    ladder: Ladder
    heads: Heads
    labelled: str = ""
    """Fingerprint of the rows with the labelled target rows among them, where the ladder reads these."""
    lease: Lease | None = None

    def raise_if_lost(self) -> None:
        """Raise LeaseHeld where another driver took the adaptation over, so that nothing of it is written here."""
        if self.lease is not None:
            self.lease.raise_if_lost("another driver took this adaptation over; it will register the choice", self.name)


def adapt_session(
    spec: RunSpec, train: Trainer, options: AdaptOptions, *, progress: Progress | None = None
) -> AdaptOutcome:
    """Adapt a spec's model to its target rows, or decide not to. A lease admits one driver.

    The same call again continues: finished runs are found, and a finished adaptation is returned if its rows are the
    same. Raises RequestError for a spec that cannot be adapted, and Stopped where a run was stopped.
    """
    started = time.monotonic()
    runs.check_adaptable(spec)
    ladder = ladder_of(spec, options.ladder)  # refuses before a store is made
    store = open_store(spec.store)
    store.begin()
    store.check()
    place = _Place(store, adaptation_name(spec, options), NotesOnce(progress), train, ladder, options.heads)
    with Lease(store, place.name, folder=folder_of(place.name)) as lease:
        base = find_base(store, runs.reads_base(spec))
        place = replace(place, lease=lease, labelled=_labelled_rows(place, spec, base))
        snapshot = _rows(place, spec, base)
        _refuse_small_target(spec, ladder, snapshot)
        if options.check is not None:
            refuse_unusable(spec, snapshot.labels, options.check)
        known = _decided_before(place, snapshot)
        outcome = known or _written(place, _decide(place, spec, base, snapshot), snapshot)
        if options.check is not None:
            found = check_choice(
                store, f"{outcome.model}@{outcome.version}", outcome.source, options.check, progress=place.progress
            )
            outcome = _written(place, replace(outcome, check=found), snapshot)
    return replace(outcome, seconds=time.monotonic() - started)


def adaptation_name(spec: RunSpec, options: AdaptOptions) -> str:
    """Return the adaptation's name: that of the spec's run, and a hash of a ladder that is written."""
    name = f"{spec.named({'compute': True, 'store': True, 'search': True})}.adapt"
    if options.ladder is None and not options.heads:
        return name
    written = json.dumps([sorted(options.ladder or ()), sorted(options.heads)])
    return f"{name}.{hashlib.sha256(written.encode()).hexdigest()[:6]}"


def _rows(place: _Place, spec: RunSpec, base: Base) -> Snapshot:
    """Read the rows of both domains. Raises DataError for too few evaluation or target rows."""
    plain = runs.source_only(spec)
    data = spec.data.model_copy(update={"target_labels": None})
    snapshot = build_rows(place.store, plain.model_copy(update={"data": data}), base, place.progress)
    if snapshot.target is None or len(snapshot.target) < FEWEST:
        count = counted(0 if snapshot.target is None else len(snapshot.target), "row")
        raise DataError(
            f"data.target has {count}, of which no shift can be seen: name a file with more rows of the target",
            where=str(spec.data.target),
        )
    if len(snapshot.eval) < FEWEST:
        raise DataError(
            f"data.eval has {counted(len(snapshot.eval), 'row')}: a shift is seen beside source rows that the model "
            "was not fitted on; name more of them, or a larger share",
            where=str(spec.data.eval),
        )
    return snapshot


def _refuse_small_target(spec: RunSpec, ladder: Ladder, snapshot: Snapshot) -> None:
    """Raise DataError where a loss that is asked for needs more target rows."""
    if asked := tuple(rung.loss for rung in ladder.losses if rung.asked):
        refuse_small_target(spec.model_copy(update={"losses": asked}), snapshot)


def _labelled_rows(place: _Place, spec: RunSpec, base: Base) -> str:
    """Return the fingerprint of the rows with labelled target rows; unusable ones are refused before any training."""
    if not place.ladder.labelled:
        return ""
    return build_rows(place.store, runs.with_target_labels(spec), base, place.progress).fingerprint


def _decided_before(place: _Place, snapshot: Snapshot) -> AdaptOutcome | None:
    """Return the outcome of an adaptation that ended with these rows and whose versions are there."""
    known = read_adaptation(place.store, place.name)
    if known is None or known.get("state") != "finished":
        return None
    if (known.get("fingerprint"), known.get("labelled", "")) != (snapshot.fingerprint, place.labelled):
        return None
    outcome = of_known_keys(AdaptOutcome, known.get("outcome") or {})
    registry = Registry(place.store)
    try:
        for reference in (outcome.source, f"{outcome.model}@{outcome.version}"):
            registry.version(*registry.parse(reference))
    except NotFound:
        return None
    return replace(outcome, already=True, check=None)


def _written(place: _Place, outcome: AdaptOutcome, snapshot: Snapshot) -> AdaptOutcome:
    """Write the page and the record of a decision, and return the outcome with the page's address."""
    key = f"{folder_of(place.name)}/{PAGE}"
    outcome = replace(outcome, page=f"{place.store.url}/{key}")
    place.store.put(key, adapt_page(outcome).encode())
    record = {
        "model": outcome.model,
        "state": "finished",
        "created": outcome.created,
        "seconds": outcome.seconds,
        "fingerprint": snapshot.fingerprint,
        "labelled": place.labelled,
        "source": outcome.source,
        "version": outcome.version,
        "chosen": outcome.chosen,
        "outcome": outcome.document(),
    }
    write_adaptation(place.store, place.name, record)
    return outcome


@contextmanager
def _recorded(place: _Place, spec: RunSpec, snapshot: Snapshot) -> Iterator[None]:
    """Record that an adaptation runs, and how it ended if an error ends it."""
    record: dict[str, Any] = {"model": spec.name, "fingerprint": snapshot.fingerprint}
    write_adaptation(place.store, place.name, {**record, "state": "running"})
    place.store.put(f"{folder_of(place.name)}/spec.yaml", spec.dump().encode())
    try:
        yield
    except BaseException as ended:
        state = "stopped" if isinstance(ended, Stopped | KeyboardInterrupt) else "failed"
        with suppress(StoreError):  # the first error is the one to raise; a record of another driver stays
            place.raise_if_lost()
            write_adaptation(place.store, place.name, {**record, "state": state})
        raise


def _decide(place: _Place, spec: RunSpec, base: Base, snapshot: Snapshot) -> AdaptOutcome:
    """Train the source-only model, try the candidates, choose and register."""
    started = time.monotonic()
    with _recorded(place, spec, snapshot), scratch_folder() as folder:
        site = _site(place, spec, base, snapshot)
        spec = _with_kept_trunk(site, spec, folder)
        source = train_source(place.store, runs.source_only(spec), place.train)
        load_delta(site.adapted, source.tensors)
        domains = _domains(site, snapshot)
        shift = diagnose(domains.held_out, domains.other, domains.head, seed=spec.training.seed)
        note(place.progress, shift.reason)
        climb = Climb(
            place.store, spec, source, site, snapshot, domains, shift, place.train, place.progress, place.heads
        )
        tried = list(climb.tried(place.ladder))
        source_only = domains.source_only()
        candidates = [one.candidate for one in tried if one.candidate]
        choice = choose(candidates, source_only, shift, probe=climb.probe(), seed=spec.training.seed)
        chosen = next((one for one in tried if one.name == choice.name), None)
        outcome = AdaptOutcome(
            model=spec.name,
            version=str(source.version).rpartition("@")[2],
            source=str(source.version),
            adapted=choice.adapted,
            chosen=choice.name,
            headline=words.headline(choice),
            shift=shift.reason,
            why=choice.reason,
            risk=words.risk(choice, choice.name == LABELLED),
            run=place.name,
            store=spec.store,
            candidates=words.candidates(choice, tried, source_only.outputs),
            diagnosis=words.diagnosis(shift, snapshot.labels),
            rows=snapshot.counts,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        place.raise_if_lost()
        if chosen is not None:
            outcome = replace(outcome, version=_register(chosen, source, site, outcome))
        return replace(outcome, seconds=time.monotonic() - started)


def _register(chosen: Tried, source: TrainedModel, site: CutSite, outcome: AdaptOutcome) -> str:
    """Register the chosen candidate and return its version."""
    record = {
        "adaptation": outcome.run,
        "chosen": outcome.chosen,
        "source_only": outcome.source,
        "shift": outcome.shift,
        "why": outcome.why,
        "risk": outcome.risk,
        "target_rows": outcome.rows.get("target", 0),
    }
    return register_chosen(chosen, source, site, record).version


def _site(place: _Place, spec: RunSpec, base: Base, snapshot: Snapshot) -> CutSite:
    """Return the model of the source-only run before its first step, on this machine."""
    plain = runs.source_only(spec)
    plain = plain.model_copy(update={"task": fit_to_data(plain.task, snapshot.train)})
    harness = LocalHarness(progress=place.progress)
    adapted = build_model(plain, snapshot, harness, base)
    last_layer(adapted)
    adapted.model.to(harness.device)
    accelerator = make_accelerator(plain.compute, harness)
    return CutSite(plain, snapshot, adapted, harness, accelerator, place.store, place.name)


def _with_kept_trunk(site: CutSite, spec: RunSpec, folder: Path) -> RunSpec:
    """Keep the frozen part's outputs for all rows, and return the spec whose runs read them."""
    if spec.method.moves_all:
        return spec
    snapshot = site.snapshot
    assert snapshot.target is not None
    trunk = keep_trunk(site, (snapshot.train, snapshot.eval, snapshot.target), folder)
    site.adapted.trunk = trunk
    if trunk is None or not trunk.features or spec.compute.trunk != "auto":
        return spec
    return spec.model_copy(update={"compute": spec.compute.model_copy(update={"trunk": "disk"})})


def _domains(site: CutSite, snapshot: Snapshot) -> Domains:
    """Compute what the source-only model makes of all rows."""
    assert snapshot.target is not None
    what = "outputs of the source-only model"
    train, held_out, target = (compute(site, rows, what) for rows in (snapshot.train, snapshot.eval, snapshot.target))
    return Domains(train, held_out, target, head_of(last_layer(site.adapted)))
