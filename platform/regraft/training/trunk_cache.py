"""The trunk cache of a run: decided, planned, filled, and handed to the model.

By default a run decides this for itself, so a failure here must not end it. The frozen part is then computed in every
pass, on all ranks alike, and a note gives the reason.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import PIL
import torch
import transformers

from regraft.bases.adapted import Adapted
from regraft.bases.timm import LIBRARIES, is_timm_folder
from regraft.contracts import Note, TrunkProgress, columns_of
from regraft.contracts.medium import medium_of
from regraft.data.snapshot import Snapshot
from regraft.errors import Unsupported
from regraft.spec.run import RunSpec
from regraft.store.runs import RunDocument
from regraft.training.cut_check import CutSite, as_not_cut, cache_requested, checked_cut, may_cache
from regraft.training.harness import Harness
from regraft.training.memory_check import available
from regraft.trunk.boundary import Boundary
from regraft.trunk.cache import CachedRows, RowsDone, Trunk, check_complete, fill
from regraft.trunk.cost_model import CacheLimits, CachePlacement, CheckedCut, Where, choose_placement, measure
from regraft.trunk.cut import NotCut, NothingFrozen
from regraft.trunk.feature_store import FORMAT, VERIFIED, Features, trunk_id
from regraft.trunk.hit_check import Amount, HitCheck, WrongShard

T = TypeVar("T")
log = logging.getLogger(__name__)


def build_trunk(site: CutSite, document: RunDocument, folder: Path, *, passes: float) -> Trunk | None:
    """Return the filled trunk cache of a run, or None and a note with the reason where it has none.

    `document` stores the plan, `folder` is scratch space, and `passes` is how often each row is used. Raises
    Unsupported when the user asked for a cache that cannot be built.
    """
    if not may_cache(site):
        return None
    if passes <= 1:
        if cache_requested(site.spec):
            what = f"phase {site.phase + 1}" if site.spec.method.has_phases() else "the run"
            site.harness.emit(Note(f"nothing of the frozen part is kept: {what} uses each row once"))
        return None
    try:
        checked = on_all_ranks(site.harness, lambda: checked_cut(site))
        plan = run_plan(site, document, checked, folder, passes=passes)
        if plan.where == "recompute":
            site.harness.emit(Note(f"the frozen part is computed again in every epoch: {plan.why}"))
            return None
        site.harness.emit(Note(f"the frozen part is computed once a row, {plan.why}"))
        return filled_trunk(site, checked, plan, folder)
    except NotCut as reason:
        opened = site.phase and isinstance(reason, NothingFrozen)  # an earlier phase had its outputs
        if cache_requested(site.spec) and not opened:
            raise Unsupported(f"{site.spec.compute.trunk} is written, but {reason}", where="compute.trunk") from reason
        if not isinstance(reason, NothingFrozen):
            site.harness.emit(Note(f"the frozen part is computed again in every epoch: {reason}"))
        return None


def filled_trunk(site: CutSite, checked: CheckedCut, plan: CachePlacement, folder: Path) -> Trunk:
    """Return the trunk cache of a checked cut with the values of all rows; raises NotCut on every rank if it fails."""
    harness, cut = site.harness, checked.cut
    features = on_all_ranks(harness, lambda: open_features(site, cut.kept) if plan.where == "disk" else {})
    trunk = Trunk(site.adapted, cut, cached_sides(site.spec, site.snapshot), features, checked.shape_only)
    fill_trunk(trunk, site, folder, lambda done, total: harness.emit(TrunkProgress(done, total)))
    return trunk


def fill_trunk(trunk: Trunk, site: CutSite, folder: Path, progress: RowsDone) -> int:
    """Compute the missing values of all rows, each rank its share, and return the number of rows of this rank's.

    Values of the store that are not what the model computes are set aside, and computed again. Raises NotCut on every
    rank when any rank fails.
    """
    harness, autocast = site.harness, site.accelerator.autocast
    share = harness.rank, harness.world
    for text in checked_hits(trunk, site, site.spec.compute.trunk_check):
        harness.emit(Note(text))
    count = on_all_ranks(harness, lambda: fill(trunk, folder, autocast=autocast, share=share, progress=progress))
    on_all_ranks(harness, lambda: check_complete(trunk))
    return count


def checked_hits(trunk: Trunk, site: CutSite, amount: Amount) -> list[str]:
    """Check values that the store holds, each rank its share, and set wrong shards aside; return notes about them.

    Where a sample has any that is wrong, all others are checked too. Raises NotCut on every rank when any rank fails.
    """
    check = HitCheck(trunk, site.accelerator.autocast, site.stored_tolerance)
    wrong = _wrong_on_any_rank(check, site.harness, amount)
    if wrong and amount != "all":
        wrong += _wrong_on_any_rank(check, site.harness, "all")
    if not wrong:
        return []
    apart = max(one.deviation for one in wrong)
    names = [str(one) for one in dict.fromkeys(wrong)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [
        f"kept values differ by up to {apart:.1%} from those that this model computes; these are set aside and "
        f"computed again: {', '.join(names[:5])}{more}. `regraft gc --verify` removes them"
    ]


def _wrong_on_any_rank(check: HitCheck, harness: Harness, amount: Amount) -> list[WrongShard]:
    """Return the wrong shards that any rank found, on every rank, and open the others again if there are any."""
    if amount == "off" or not check.trunk.features:
        return []
    seed = harness.from_first(secrets.randbits(63))
    share = harness.rank, harness.world
    found = on_all_ranks(harness, lambda: check.wrong_shards(amount, seed, share))
    every = harness.from_first([one for each in harness.gather(found) for one in each])
    if every:
        for features in check.trunk.features.values():
            on_all_ranks(harness, features.refresh)
    return every


def cached_sides(spec: RunSpec, snapshot: Snapshot) -> tuple[CachedRows, ...]:
    """Return the rows of train and eval, and of target where losses read them; no values are known yet."""
    files = file_columns(spec)
    target = [snapshot.target] if spec.reads_target and snapshot.target is not None else []
    return tuple(CachedRows(rows, files) for rows in (snapshot.train, snapshot.eval, *target))


def file_columns(spec: RunSpec) -> list[str]:
    """Return the columns of the rows that refer to files."""
    return [name for name, column in columns_of(spec.task.stored_columns()).items() if column.by_reference]


def on_all_ranks(harness: Harness, work: Callable[[], T]) -> T:
    """Return the result of `work`, or raise NotCut on every rank when it fails on any: no rank waits for another.

    `work` must not communicate with other ranks.
    """
    failed: NotCut | None = None
    result: Any = None
    try:
        result = work()
    except Exception as error:
        failed = as_not_cut(error)
    count = harness.sum(torch.tensor([float(failed is not None)], device=harness.device))
    if failed is not None:
        raise failed
    if count.item():
        raise NotCut("another worker could not keep it")
    found: T = result
    return found


def run_plan(
    site: CutSite, document: RunDocument, checked: CheckedCut, folder: Path, *, passes: float
) -> CachePlacement:
    """Return the run's plan: measured once, by the first rank, and stored while it agrees with the spec."""
    harness = site.harness
    name = f"trunk_of_phase_{site.phase + 1}" if site.phase else "trunk"
    known: Any = None
    if harness.first:
        known = document.read().get(name)
        places = (*free_bytes(site, folder), "recompute")
        if known is not None and (known.get("where") not in places or cache_requested(site.spec)):
            known = None
    fresh = harness.first and known is None
    plan = on_all_ranks(harness, lambda: measured_plan(site, checked, folder, passes).document() if fresh else known)
    if fresh:
        document.update(**{name: plan})
    return CachePlacement(**harness.from_first(plan))


def measured_plan(site: CutSite, checked: CheckedCut, folder: Path, passes: float) -> CachePlacement:
    """Measure the cut on this machine and choose where the values of all rows are kept."""
    rows = site.snapshot.train
    budget = round(site.spec.compute.trunk_gb * 1e9)
    limits = CacheLimits(budget, free_bytes(site, folder), passes, cache_requested(site.spec))
    (costs,) = measure(site.adapted, [checked], rows, site.accelerator.autocast)
    total = sum(len(side.rows) for side in cached_sides(site.spec, site.snapshot))
    return choose_placement(costs, sum(costs.row_bytes.values()), total, limits)


def free_bytes(site: CutSite, folder: Path) -> dict[Where, int]:
    """Return the places that may hold values, with half of their free bytes: checkpoints need space too.

    Values are written to the scratch folder first, and end in the store: the smaller of both bounds them.
    """
    rooms = (shutil.disk_usage(folder).free, site.store.free_bytes())
    found: dict[Where, int] = {"disk": min(room for room in rooms if room is not None) // 2}
    if site.harness.world == 1:
        found["memory"] = available() // 2
    place = site.spec.compute.trunk
    return found if place == "auto" else {where: free for where, free in found.items() if where == place}


def _versions(adapted: Adapted) -> list[str]:
    """Return the versions of what computes a trunk's values: of the code of models and of what reads their inputs."""
    # transformers holds the code of models and processors, Pillow resizes images.
    found = [torch.__version__.split("+")[0], transformers.__version__, PIL.__version__]
    libraries = medium_of(adapted.task.modality).libraries
    libraries += LIBRARIES if is_timm_folder(adapted.base.path) else ()
    return found + [f"{name} {version(name)}" for name in libraries]


def open_features(site: CutSite, boundaries: Iterable[Boundary], **beside: Any) -> dict[str, Features]:
    """Open the features of each value in the store, by boundary key; a note names shards that cannot be used.

    `beside` is what determines the values besides the base, the rows and how they are read.
    """
    adapted = site.adapted
    made_by = {
        "base": adapted.base.hash,
        "processor": adapted.base.processor_hash,
        "task": json.loads(adapted.task.model_dump_json(exclude=set(adapted.task.answer_fields))),
        "labels": list(adapted.context.labels) if site.spec.task.classes() else [],
        "precision": site.accelerator.mixed_precision,
        "device": site.harness.device.type,
        "versions": _versions(adapted),
        **beside,
    }
    prefix = adapted.anatomy.prefix
    # What 0.1.0 computed of files was read after the hashing, and may be of other bytes.
    least = VERIFIED if file_columns(site.spec) else FORMAT
    run = site.run or site.spec.run
    found = {
        boundary.key: Features(
            site.store,
            trunk_id(boundary, prefix, **made_by),
            facts={"run": run, "dtype": str(boundary.dtype)},
            least=least,
        )
        for boundary in boundaries
    }
    for features in found.values():
        for text in _unusable(features):
            site.harness.emit(Note(text))
            log.info("%s", text)
    return found


def _unusable(features: Features) -> Iterator[str]:
    """Yield a note for each kind of shards that cannot be used."""
    for shard, why in features.refused.items():
        yield f"kept values that cannot be used are skipped, and computed again: {why} ({shard})"
    if features.outdated:
        yield (
            f"values in {features.prefix} that an earlier edition kept are computed again: it read the files a second "
            "time after it had hashed them. `regraft gc --verify RUN` removes what it kept"
        )
