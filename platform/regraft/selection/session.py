"""A selection from a spec and bases to a verdict: rows, features, scores, controls, record and page."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regraft.bases.derived_base import RANDOM, find_base, holds_configuration_alone
from regraft.bases.locate import Base
from regraft.contracts import NotesOnce, Progress, note
from regraft.contracts.file_ref import FileRef
from regraft.errors import BaseError, DataError, NotFound, RegraftError, RequestError, Unsupported
from regraft.selection import words
from regraft.selection.base_facts import trained_for
from regraft.selection.choice import RANDOM as SEED
from regraft.selection.choice import RANKED, RankedBase, ahead, chosen_probe, proposed_depth, rank
from regraft.selection.data_curve import data_curve
from regraft.selection.dull_inputs import dull_scores
from regraft.selection.measured_base import MeasuredBase, SelectWork, base_site, measure_base
from regraft.selection.outcome import SelectOutcome
from regraft.selection.references import compared_bases
from regraft.selection.sampled_rows import sampled
from regraft.selection.score import FeatureTarget, Scored
from regraft.selection.selection_record import SelectionRecord
from regraft.selection.targets import target_of
from regraft.selection.training_rows import FEWEST_ROWS, training_rows
from regraft.selection.warm_run import check_warm, compute_others
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore, open_store
from regraft.store.scratch_folder import scratch_folder
from regraft.training.cut_check import CutSite
from regraft.training.harness import LocalHarness
from regraft.training.memory_release import free_memory

_OF_ROWS = ("task", "data.train", "data.group")
"""What an error names that no other base would help."""
SAMPLE = 500
"""Training rows that are scored, at most."""


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
    if options.warm:
        check_warm(spec)
    once = NotesOnce(progress)
    located, wrong = _located(store, references, options, once)
    bases = {base.reference: base for base in located}  # a registered model's reference names its version now
    snapshot = training_rows(store, spec, bases, once, skip_bad=options.skip_bad)
    record = SelectionRecord(store, spec, selection_name(spec, references, options), snapshot.fingerprint, located)
    known = None if options.fresh else record.known(skip_bad=options.skip_bad)
    with scratch_folder() as folder:
        chosen = sampled(spec.task, snapshot.train, options.sample, SEED)
        work = SelectWork(store, spec, snapshot, chosen, once, folder)
        if known is None:
            outcome = _decide(work, bases, options, wrong)
            outcome = record.write(replace(outcome, seconds=time.monotonic() - started))
        else:
            outcome = known
            _refuse(known.left_out, True, options, once)
        # What was decided is written: what follows may be refused, and is lost alone.
        if options.curve and not outcome.curve:
            free_memory(LocalHarness())
            outcome = replace(outcome, curve=data_curve(work, bases[outcome.base]))
            seconds = outcome.seconds if known else time.monotonic() - started
            outcome = record.write(replace(outcome, seconds=seconds))
        if options.warm:
            free_memory(LocalHarness())
            compute_others(work, bases[outcome.base])
    return outcome


def selection_name(spec: RunSpec, references: Sequence[str], options: SelectOptions) -> str:
    """Return the selection's name: the model's, and a hash of its task, its rows, the bases and the sample."""
    document = spec.model_dump(mode="json", include={"task", "data"})
    written = json.dumps([document, sorted(references), options.sample, list(RANKED)], sort_keys=True)
    inside = written.replace(json.dumps(f"{Path.cwd()}/")[1:-1], "")  # a checkout elsewhere has the same name
    return f"{spec.name}-{hashlib.sha256(inside.encode()).hexdigest()[:10]}.select"


def _located(
    store: ObjectStore, references: Sequence[str], options: SelectOptions, progress: Progress
) -> tuple[list[Base], list[str]]:
    """Find all bases; return them, and why others are left out.

    Raises BaseError with every one that is not there, unless they are to be left out.
    """
    found: list[Base] = []
    wrong: list[str] = []
    for reference in references:
        try:
            if holds_configuration_alone(reference):
                raise BaseError("holds a configuration and no weights: there is nothing to compare", where=reference)
            found.append(find_base(store, reference))
        except (BaseError, NotFound, Unsupported) as error:
            wrong.append(str(error) if reference in str(error) else f"{reference}: {error}")
    _refuse(wrong, bool(found), options, progress)
    return found, wrong


def _refuse(wrong: Sequence[str], any_left: bool, options: SelectOptions, progress: Progress) -> None:
    """Raise BaseError with every base that cannot be used, or note that they are left out while any is left."""
    if not wrong:
        return
    if not options.skip_bad or not any_left:
        raise BaseError("; ".join(wrong), where="--bases")
    for text in wrong:
        note(progress, f"left out: {text}")


def _decide(work: SelectWork, bases: dict[str, Base], options: SelectOptions, left_out: Sequence[str]) -> SelectOutcome:
    """Read every base, rank them, and compare what they choose with its controls."""
    found, target, wrong = _read_all(work, bases)
    _refuse(wrong, bool(found), options, work.progress)
    assert target is not None
    share = len(work.chosen) / len(work.snapshot.train)
    scores = [one.scores for one in found]
    ranking = rank(scores, share)
    by_reference = {one.base.reference: one for one in found}
    first = by_reference[ranking[0].base.reference]
    ours = chosen_probe(scores, target)
    controls = [
        words.control(name, one.value, ahead(ours, one, share, groups=target.groups))
        for name, one in _controls(work, first, target).items()
    ]
    beaten = [one for one in controls if not one["beaten"]]
    depth = proposed_depth(first.scores)
    return SelectOutcome(
        name="",
        task=work.spec.task.key(),
        base=first.base.reference,
        headline=words.headline(ranking),
        tied=[one.base.reference for one in sorted(ranking, key=lambda one: one.base.cost) if one.tied],
        bases=[_entry(place, one, by_reference[one.base.reference]) for place, one in enumerate(ranking, 1)],
        probe=ours.value,
        baselines=controls,
        warning=words.warning(first.base.reference, beaten),
        depth=words.depth(depth, first.features.blocks),
        left_out=[*left_out, *wrong],
        rows={"sample": len(work.chosen), **work.snapshot.counts},
        kind=str(target.kind),
        fingerprint=work.snapshot.fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _read_all(work: SelectWork, bases: dict[str, Base]) -> tuple[list[MeasuredBase], FeatureTarget | None, list[str]]:
    """Read the bases one after another; return those that were read, the labels, and why others were not."""
    found: list[MeasuredBase] = []
    target: FeatureTarget | None = None
    wrong: list[str] = []
    for number, base in enumerate(bases.values(), 1):
        note(work.progress, f"base {number} of {len(bases)}: {base.reference}")
        try:
            measured, target = _read(work, base, target)
            found.append(measured)
        except RequestError as error:
            if error.where in _OF_ROWS or error.where == work.spec.data.train:
                raise
            wrong.append(f"{base.reference}: {error.message}")
        free_memory(LocalHarness())  # the next model is loaded when this one is gone
    return found, target, wrong


def _read(work: SelectWork, base: Base, target: FeatureTarget | None) -> tuple[MeasuredBase, FeatureTarget]:
    """Return what was measured of a base, without its model, and the labels, which the first base reads."""
    site = base_site(work, base, work.spec)
    target = target or _target(work, site)
    return measure_base(work, site, target), target


def _target(work: SelectWork, site: CutSite) -> FeatureTarget:
    first, *others = work.chosen.tolist()
    asked = _inputs(site, first)
    if all(_inputs(site, index) == asked for index in others):
        raise DataError("all training rows are alike: no base can tell them apart", where=work.spec.data.train)
    return target_of(site.adapted, work.snapshot.train, work.chosen, work.snapshot.groups)


def _inputs(site: CutSite, index: int) -> str:
    """Return what a row asks, without its label, as text; files count by their content."""
    targets = site.adapted.task.target_columns()
    row = site.snapshot.train.stored(index)
    asked = [value for name, value in sorted(row.items()) if name not in targets and name != "row"]
    return repr([value.sha256 or str(value) if isinstance(value, FileRef) else value for value in asked])


def _controls(work: SelectWork, first: MeasuredBase, target: FeatureTarget) -> dict[str, Scored]:
    """Return the scores of the dull baselines and of random weights of the first choice."""
    found = dull_scores(work.spec.task, work.snapshot.train, work.chosen, target)
    with suppress(RegraftError):  # weights of some architectures cannot be drawn; the others still count
        base = find_base(work.store, f"{RANDOM}{SEED}:{first.base.reference}")
        random = measure_base(work, base_site(work, base, work.spec), target, cuts=first.features.cuts)
        found["random weights of the first choice"] = chosen_probe([random.scores], target)
    return found


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
        "leads": ranked.leads,
        "parameters": features.parameters,
        "operations": features.operations,
        "trained_for": trained_for(measured.base),
        "rows": {"computed": features.computed, "found": len(features.depths[0].features) - features.computed},
        "kept": features.kept,
        "note": features.note,
        "seconds": round(measured.seconds, 2),
    }
