"""Verification of all kept outputs of one run's rows: each is computed again with the run's base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from regraft.bases.adapt import narrow
from regraft.bases.derived_base import base_named
from regraft.contracts import Progress
from regraft.data.row_sample import fit_to_data
from regraft.data.sampler import batches_per_epoch
from regraft.data.snapshot import open_snapshot
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.spec.yaml_words import parse_yaml
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.training.cut_check import CutSite, checked_cut, may_cache
from regraft.training.distribute import make_accelerator
from regraft.training.harness import LocalHarness
from regraft.training.phases import phases_of, trained_names
from regraft.training.prepare import base_reference
from regraft.training.run import build_model
from regraft.training.run_steps import steps_of
from regraft.training.trunk_cache import cached_sides, checked_hits, open_features
from regraft.trunk.cache import Trunk
from regraft.trunk.cost_model import CheckedCut
from regraft.trunk.cut import NotCut


def verify_kept(store: ObjectStore, run: str, progress: Progress | None = None) -> tuple[list[str], int]:
    """Compute all kept outputs of a run's rows again, and set wrong shards aside; return notes and the number of rows.

    Of rows with files, shards that 0.1.0 wrote are set aside unread. Raises NotFound without such a run, RequestError
    where nothing of it can be kept, and DataError where a file of its rows has changed.
    """
    site = _site(store, run, progress)
    if not may_cache(site) or site.spec.method.closed_form:
        raise RequestError("outputs of its frozen part are not kept, as its spec says", where=run)
    found = [_verified(one, run) for one in _with_frozen_part(site, run)]
    return [text for notes, _ in found for text in notes], sum(count for _, count in found)


def _with_frozen_part(site: CutSite, run: str) -> Iterator[tuple[CutSite, CheckedCut]]:
    """Yield the site with the cut of each phase that has one, in turn. Raises RequestError where none has."""
    rows, training, adapted = len(site.snapshot.train), site.spec.training, site.adapted
    phases = phases_of(adapted, steps_of(training, rows), batches_per_epoch(rows, training.batch_size))
    trained, count, reason = trained_names(adapted), 0, NotCut("")
    for number, phase in enumerate(phases):
        if len(phases) > 1:
            narrow(adapted, trained, phase.moves)
        try:
            checked = checked_cut(site)
        except NotCut as error:
            reason = error
            continue
        count += 1
        yield replace(site, phase=number), checked
    if not count:
        raise RequestError(f"outputs of its frozen part cannot be kept: {reason}", where=run) from reason


def _verified(found: tuple[CutSite, CheckedCut], run: str) -> tuple[list[str], int]:
    """Compute the kept outputs of one cut again; return notes and the number of rows."""
    site, checked = found
    features = open_features(site, checked.cut.kept)
    for one in features.values():
        one.distrust(one.outdated_shards(), "an earlier edition read the files again after it had hashed them")
    sides = cached_sides(site.spec, site.snapshot)
    trunk = Trunk(site.adapted, checked.cut, sides, features, checked.shape_only)
    try:
        notes = [text for key in features for text in _checked(trunk, key, site)]
    except NotCut as error:
        raise error.__cause__ or RequestError(str(error), where=run) from error
    lacking = [side.missing(checked.cut.kept, features) for side in sides]
    return notes, int(sum((~each).sum() for each in lacking))


def _checked(trunk: Trunk, key: str, site: CutSite) -> Iterator[str]:
    """Check every shard of one value by itself, since a row may be in several; yield notes."""
    features = trunk.features[key]
    for prefix in features.prefixes():
        features.narrow(prefix)
        yield from checked_hits(replace(trunk, features={key: features}), site, "all")
    features.narrow()


def _site(store: ObjectStore, run: str, progress: Progress | None) -> CutSite:
    """Return a run's model before its first step, on this machine's device."""
    runs = Runs(store)
    fields = runs.info(run).fields
    spec = RunSpec.resolve(parse_yaml(runs.read(run, "spec.yaml").decode()), where=f"runs/{run}/spec.yaml")
    snapshot = open_snapshot(store, str(fields["data"]))
    spec = spec.model_copy(update={"task": fit_to_data(spec.task, snapshot.train)})
    base = base_named(store, base_reference(spec), str(fields["base"]), f"run {run} began with that one: put it back")
    harness = LocalHarness(progress=progress)
    adapted = build_model(spec, snapshot, harness, base)
    adapted.model.to(harness.device)
    return CutSite(spec, snapshot, adapted, harness, make_accelerator(spec.compute, harness), store, run)
