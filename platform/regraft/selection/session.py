"""A selection from a spec and bases to a verdict: rows, features, scores, controls, record and page."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from regraft.bases.adapt import narrow
from regraft.bases.derived_base import RANDOM, find_base, holds_configuration_alone
from regraft.bases.load import load_processor
from regraft.bases.locate import Base
from regraft.contracts import NotesOnce, Progress, note
from regraft.data.base_reading import BaseReading
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import BaseError, DataError, NotFound, RegraftError, RequestError, Unsupported
from regraft.selection import words
from regraft.selection.base_facts import trained_for
from regraft.selection.choice import RANDOM as SEED
from regraft.selection.choice import RANKED, RankedBase, ahead, proposed_depth, rank
from regraft.selection.data_curve import data_curve
from regraft.selection.dull_inputs import dull_scores
from regraft.selection.measured_base import MeasuredBase, SelectWork, base_site, measure_base, probe_score
from regraft.selection.outcome import SelectOutcome
from regraft.selection.page import select_page
from regraft.selection.references import compared_bases
from regraft.selection.sampled_rows import sampled
from regraft.selection.score import FeatureTarget
from regraft.selection.targets import target_of
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore, open_store
from regraft.store.scratch_folder import scratch_folder
from regraft.store.selections import page_key, read_selection, write_selection
from regraft.training.cut_check import CutSite, checked_cut, may_cache
from regraft.training.phases import trained_names
from regraft.training.prepare import skipped_text
from regraft.training.trunk_cache import filled_trunk
from regraft.trunk.cost_model import CachePlacement
from regraft.trunk.cut import NotCut

SAMPLE = 500
"""Training rows that are scored, at most."""
FEWEST_ROWS = 8
"""Fewest rows of which anything can be said."""


@dataclass(frozen=True)
class SelectOptions:
    """What a command asks for besides its spec."""

    bases: tuple[str, ...] | None = None
    """References of the bases; None for those of `search.space.base`."""
    sample: int = SAMPLE
    fresh: bool = False
    """Whether to decide again what was decided before."""
    skip_bad: bool = False
    """Whether bases that cannot be used are left out with a note, in place of an error."""
    warm: bool = False
    """Whether the first choice's other rows are computed too, so that its run computes none."""
    curve: bool = False
    """Whether the data curve of the first choice is measured."""


def select_session(spec: RunSpec, options: SelectOptions, *, progress: Progress | None = None) -> SelectOutcome:
    """Rank bases for a spec's training rows, or return what was decided for the same bases and rows.

    Evaluation and test rows choose nothing. Raises BaseError with every base that cannot be used, Unsupported for a
    task without a label that one vector of a row could tell, and DataError for rows that leave nothing to tell apart.
    """
    started = time.monotonic()
    references = compared_bases(spec, options.bases)
    if options.sample < FEWEST_ROWS:
        raise RequestError(f"{options.sample} is written; allowed is {FEWEST_ROWS} or more", where="--sample")
    store = open_store(spec.store)
    store.begin()
    store.check()
    once = NotesOnce(progress)
    located = _located(store, references, options, once).values()
    bases = {base.reference: base for base in located}  # a registered model's reference names its version now
    snapshot = _rows(store, spec, bases, once)
    name = selection_name(spec, references, options)
    hashes = {base.reference: base.hash for base in bases.values()}
    known = None if options.fresh else _decided_before(store, name, snapshot, hashes)
    with scratch_folder() as folder:
        chosen = sampled(spec.task, snapshot.train, options.sample, SEED)
        work = SelectWork(store, spec, snapshot, chosen, once, folder)
        outcome = known or replace(_decide(work, bases, options), name=name, store=spec.store)
        if options.warm:
            _compute_others(work, bases[outcome.base])
        if options.curve and not outcome.curve:
            outcome = replace(outcome, curve=data_curve(work, bases[outcome.base]))
    outcome = replace(outcome, seconds=time.monotonic() - started)
    unchanged = known is not None and outcome.curve == known.curve
    return outcome if unchanged else _written(store, outcome, hashes)


def selection_name(spec: RunSpec, references: Sequence[str], options: SelectOptions) -> str:
    """Return the selection's name: the model's, and a hash of its task, its rows, the bases and the sample."""
    document = spec.model_dump(mode="json", include={"task", "data"})
    written = json.dumps([document, sorted(references), options.sample, list(RANKED)], sort_keys=True)
    inside = written.replace(json.dumps(f"{Path.cwd()}/")[1:-1], "")  # a checkout elsewhere has the same name
    return f"{spec.name}-{hashlib.sha256(inside.encode()).hexdigest()[:10]}.select"


def _located(
    store: ObjectStore, references: Sequence[str], options: SelectOptions, progress: Progress
) -> dict[str, Base]:
    """Find all bases. Raises BaseError with every one that is not there, unless they are to be left out."""
    found: dict[str, Base] = {}
    wrong: list[str] = []
    for reference in references:
        try:
            if holds_configuration_alone(reference):
                raise BaseError("holds a configuration and no weights: there is nothing to compare", where=reference)
            found[reference] = find_base(store, reference)
        except (BaseError, NotFound, Unsupported) as error:
            wrong.append(str(error) if reference in str(error) else f"{reference}: {error}")
    _refuse(wrong, bool(found), options, progress)
    return found


def _refuse(wrong: Sequence[str], any_left: bool, options: SelectOptions, progress: Progress) -> None:
    """Raise BaseError with every base that cannot be used, or note that they are left out while any is left."""
    if not wrong:
        return
    if not options.skip_bad or not any_left:
        raise BaseError("; ".join(wrong), where="--bases")
    for text in wrong:
        note(progress, f"left out: {text}")


def _rows(store: ObjectStore, spec: RunSpec, bases: dict[str, Base], progress: Progress) -> Snapshot:
    """Return the checked rows, the snapshot of the run that may follow."""
    first = next(iter(bases.values()))
    reading = BaseReading(partial(load_processor, first, spec.task.modality))
    snapshot = build_snapshot(store, spec.task, spec.data, base=reading)
    for text in (*([skipped_text(snapshot.skipped)] if snapshot.skipped else []), *snapshot.notes):
        note(progress, text)
    if len(snapshot.train) < FEWEST_ROWS:
        raise DataError(
            f"data.train has {len(snapshot.train)} rows; bases can be compared on {FEWEST_ROWS} or more",
            where=spec.data.train,
        )
    return snapshot


def _decided_before(store: ObjectStore, name: str, snapshot: Snapshot, hashes: dict[str, str]) -> SelectOutcome | None:
    """Return the outcome of a selection that ended with these rows and these bases."""
    known = read_selection(store, name)
    if known is None or (known.get("fingerprint"), known.get("hashes")) != (snapshot.fingerprint, hashes):
        return None
    return replace(SelectOutcome.from_document(known["outcome"]), already=True)


def _written(store: ObjectStore, outcome: SelectOutcome, hashes: dict[str, str]) -> SelectOutcome:
    """Write the page, then the record, and return the outcome with the page's address."""
    key = page_key(outcome.name)
    outcome = replace(outcome, page=f"{store.url}/{key}")
    store.put(key, select_page(outcome).encode())
    record = {
        "fingerprint": outcome.fingerprint,
        "hashes": hashes,
        "created": outcome.created,
        "seconds": outcome.seconds,
        "outcome": outcome.document(),
    }
    write_selection(store, outcome.name, record)
    return outcome


def _decide(work: SelectWork, bases: dict[str, Base], options: SelectOptions) -> SelectOutcome:
    """Read every base, rank them, and compare the first with its controls."""
    found: list[MeasuredBase] = []
    target: FeatureTarget | None = None
    wrong: list[str] = []
    for number, base in enumerate(bases.values(), 1):
        note(work.progress, f"base {number} of {len(bases)}: {base.reference}")
        try:
            site = base_site(work, base, work.spec)
            target = target or _target(work, site)
            found.append(measure_base(work, site, target))
        except (BaseError, Unsupported) as error:
            if error.where == "task":
                raise
            wrong.append(f"{base.reference}: {error.message}")
    _refuse(wrong, bool(found), options, work.progress)
    assert target is not None
    ranking = rank([one.scores for one in found], len(work.chosen) / len(work.snapshot.train))
    by_reference = {one.base.reference: one for one in found}
    first = by_reference[ranking[0].base.reference]
    controls = _controls(work, first, target)
    beaten = [one for one in controls if not one["beaten"]]
    depth = proposed_depth(first.scores)
    return SelectOutcome(
        name="",
        task=work.spec.task.key(),
        base=first.base.reference,
        headline=words.headline(ranking),
        tied=[one.base.reference for one in sorted(ranking, key=lambda one: one.base.cost) if one.tied],
        bases=[_entry(place, one, by_reference[one.base.reference]) for place, one in enumerate(ranking, 1)],
        probe=probe_score(first.scores).value,
        baselines=controls,
        warning=words.warning(first.base.reference, beaten),
        depth=words.depth(depth, first.features.blocks),
        rows={"sample": len(work.chosen), **work.snapshot.counts},
        kind=str(target.kind),
        fingerprint=work.snapshot.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _compute_others(work: SelectWork, base: Base) -> None:
    """Compute what the spec's own run keeps of the first choice, for all rows that lack it; their labels are not read.

    Raises Unsupported where such a run keeps nothing.
    """
    site = base_site(work, base, work.spec)
    site = replace(site, spec=work.spec.model_copy(update={"task": site.spec.task}))
    method = work.spec.method
    if not method.by_depth or method.has_phases() or method.closed_form or not may_cache(site):
        raise Unsupported(f"a run of method {method.key()} here keeps no outputs of a frozen part", where="--warm")
    narrow(site.adapted, trained_names(site.adapted), method)
    try:
        filled_trunk(site, checked_cut(site), CachePlacement("disk", "asked for", 0, 0.0, 0.0), work.folder)
    except NotCut as error:
        raise Unsupported(f"outputs of {base.reference} cannot be kept: {error}", where="--warm") from error


def _target(work: SelectWork, site: CutSite) -> FeatureTarget:
    rows = work.snapshot.train
    if len({_inputs(site, int(index)) for index in work.chosen}) < 2:
        raise DataError("all training rows are alike: no base can tell them apart", where=work.spec.data.train)
    return target_of(site.adapted, rows, work.chosen)


def _inputs(site: CutSite, index: int) -> str:
    """Return what a row asks, without its label, as text."""
    targets = site.adapted.task.target_columns()
    row = site.snapshot.train.stored(index)
    return repr([value for name, value in sorted(row.items()) if name not in targets and name != "row"])


def _controls(work: SelectWork, first: MeasuredBase, target: FeatureTarget) -> list[dict[str, Any]]:
    """Return the dull baselines and the random weights of the first choice, each beside it."""
    found = dull_scores(work.spec.task, work.snapshot.train, work.chosen, target)
    with suppress(RegraftError):  # weights of some architectures cannot be drawn; the others still count
        base = find_base(work.store, f"{RANDOM}{SEED}:{first.base.reference}")
        random = measure_base(work, base_site(work, base, work.spec), target, cuts=first.features.cuts)
        found["random weights of the first choice"] = probe_score(random.scores)
    ours = probe_score(first.scores)
    return [words.control(name, one.value, ahead(ours, one)) for name, one in found.items()]


def _entry(place: int, ranked: RankedBase, measured: MeasuredBase) -> dict[str, Any]:
    """Return a base as the outcome lists it."""
    base, features = ranked.base, measured.features
    depth = proposed_depth(base)
    decided = {name: base.best(name).scores[name].value for name in base.depths[0].scores}
    return {
        "base": base.reference,
        "hash": measured.base.hash,
        "place": place,
        "rank": round(base.rank, 3),
        "score": base.judged().value,
        "scores": {**decided, **base.others},
        "depth": depth.name,
        "depths": [
            {
                "name": one.name,
                "depth": one.depth,
                "score": one.judged().value,
                **{name: found.value for name, found in one.scores.items()},
            }
            for one in base.depths
        ],
        "behind": words.difference(ranked.behind),
        "tied": ranked.tied,
        "parameters": features.parameters,
        "operations": features.operations,
        "trained_for": trained_for(measured.base),
        "rows": {"computed": features.computed, "found": len(features.depths[0].features) - features.computed},
        "kept": features.kept,
        "note": features.note,
        "seconds": round(measured.seconds, 2),
    }
