"""Kept outputs of frozen parts, shared by all trials of a search: one pass over the rows computes every depth.

A trial's model is cut where its training begins. The cuts of one task lie along the same frozen base. So one pass over
the rows, up to the deepest cut, computes the outputs at all of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Note, Progress, TrunkProgress
from regraft.data.local_cache import exclusive
from regraft.data.snapshot import Snapshot
from regraft.errors import StoreError, Unsupported
from regraft.spec.run import RunSpec
from regraft.store.machine_cache import cache_folder
from regraft.training.cut_check import CutSite, as_not_cut, cache_requested, checked_cut, may_cache
from regraft.training.trunk_cache import cached_sides, fill_trunk, free_bytes, open_features
from regraft.trunk.cache import CachedRows, Memo, Trunk
from regraft.trunk.cost_model import CacheLimits, CachePlacement, CheckedCut, CutCosts, choose_placement, measure
from regraft.trunk.cut import Cut, NotCut, NothingFrozen, union
from regraft.trunk.feature_store import Features
from regraft.trunk.trace import live_modules

log = logging.getLogger(__name__)

PROGRESS_S = 0.5
"""Seconds between two progress events."""

Key = tuple[frozenset[str], bool, str]
"""Key of a cut among one task's models: the modules that train or drop out, whether loss terms read the model, and
where outputs are to be kept."""


@dataclass
class CutEntry:
    """One cut with its plan: where its outputs are kept, or why they are not."""

    name: str
    """Its name on screens and pages, such as `depth 4`."""
    cut: Cut | None
    shape_only: bool
    plan: CachePlacement

    @property
    def kept(self) -> bool:
        """True if trials read the outputs instead of computing them."""
        return self.cut is not None and self.plan.where != "recompute"


@dataclass
class SharingStats:
    """Counts of rows and seconds that trials shared and saved; they are summed over workers."""

    rows: int = 0
    computed: int = 0
    reused: int = 0
    bytes: int = 0
    saved_s: float = 0.0


@dataclass
class SharedCuts:
    """The kept outputs for one task's rows, at every cut that trials need."""

    snapshot: Snapshot
    folder: Path
    """Scratch folder of this worker."""
    budget: int
    """Limit of bytes for all cuts."""
    emit: Progress
    of: str = ""
    """The base, where there are several."""
    shared: SharingStats = field(default_factory=SharingStats)
    entries: dict[Key, CutEntry] = field(default_factory=dict)
    _sides: tuple[CachedRows, ...] | None = None
    _features: dict[str, Features] = field(default_factory=dict)
    _bytes: dict[str, float] = field(default_factory=dict)
    _memo: Memo = field(default_factory=Memo)
    _head_features: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _last_progress: float = 0.0

    def stock(self, sites: Sequence[CutSite], passes: float, heads: Sequence[tuple[CutSite, Cut]] = ()) -> None:
        """Cut, check and plan these models, and compute in one pass the outputs that are to be kept.

        `sites` are models before their first step, `heads` those whose head alone trains, each with the cut before it.
        `passes` is the least number of times that each row is read at each cut. Known cuts are skipped.
        """
        fresh: dict[Key, CutSite] = {}
        for site in sites:
            if keepable(site) and (key := cut_key(site)) not in self.entries:
                fresh.setdefault(key, site)
        cuts: list[tuple[Key, CutSite, CheckedCut]] = []
        for key, site in fresh.items():
            found = self._checked_cut(key, site)
            if found is not None:
                cuts.append((key, site, found))
        for key, (site, cut) in {head_key(site.spec): (site, cut) for site, cut in heads}.items():
            if key not in self.entries:
                cuts.append((key, site, CheckedCut(cut, True)))
        if not cuts:
            return
        try:
            self._plan(cuts, passes)
            self._fill([(key, site) for key, site, *_ in cuts if self.entries[key].kept])
        except Exception as error:
            self._give_up(cuts, str(as_not_cut(error)))

    def trunk(self, site: CutSite) -> Trunk | None:
        """Return the cache that replaces a model's frozen part; None if the model computes it.

        Raises Unsupported if the spec forces the cache and outputs cannot be kept.
        """
        if not may_cache(site):
            return None
        entry = self.entries.get(cut_key(site))
        if entry is None or entry.cut is None or not entry.kept:
            if entry is not None and cache_requested(site.spec) and not site.phase:
                raise Unsupported(f"{site.spec.compute.trunk} is written, but {entry.plan.why}", where="compute.trunk")
            return None
        return Trunk(site.adapted, entry.cut, self._all_sides(site), self._features, entry.shape_only, self._memo)

    def holds_heads(self, spec: RunSpec) -> bool:
        """Return whether the features of such a spec's head are kept."""
        entry = self.entries.get(head_key(spec))
        return entry is not None and entry.kept

    def head_features(self, site: CutSite) -> tuple[Tensor, Tensor] | None:
        """Return the features that the model's head reads, (rows, width) in fp32, of training and evaluation rows.

        Returns None if they are not kept.
        """
        entry = self.entries.get(head_key(site.spec))
        if entry is None or entry.cut is None or not entry.kept:
            return None
        (boundary,) = entry.cut.kept
        if boundary.key not in self._head_features:
            trunk = Trunk(site.adapted, entry.cut, self._all_sides(site), self._features)
            device = site.harness.device
            train, held = (
                torch.stack([trunk.value(side, boundary, index) for index in range(len(side.rows))]).float().to(device)
                for side in trunk.sides[:2]
            )
            self._head_features[boundary.key] = train, held
        return self._head_features[boundary.key]

    def rest(self) -> None:
        """Release what is read or encoded again when it is needed; kept outputs stay."""
        self._head_features.clear()
        self._memo = Memo()

    def _name(self, site: CutSite) -> str:
        """Return the name of a model's frozen part, with the base where there are several."""
        name = frozen_name(site.adapted)
        return f"{self.of}, {name}" if self.of else name

    def _all_sides(self, site: CutSite) -> tuple[CachedRows, ...]:
        if self._sides is None:
            self._sides = cached_sides(site.spec, site.snapshot)
        return self._sides

    def _checked_cut(self, key: Key, site: CutSite) -> CheckedCut | None:
        """Return the checked cut of a model; None, with a note unless nothing is frozen, if it has none."""
        try:
            return checked_cut(site)
        except Exception as error:
            reason = as_not_cut(error)
        name = self._name(site)
        self.entries[key] = CutEntry(name, None, False, CachePlacement("recompute", str(reason), 0, 0.0, 0.0))
        if not isinstance(reason, NothingFrozen):
            self.emit(Note(f"{name}: the frozen part is computed again in every epoch: {reason}"))
        return None

    def _plan(self, cuts: Sequence[tuple[Key, CutSite, CheckedCut]], passes: float) -> None:
        """Choose a place for each cut within the common budget, first for the one that saves most per byte."""
        site = site_with_modules([site for _, site, _ in cuts], [checked.cut for *_, checked in cuts])
        checked_cuts = [checked for *_, checked in cuts]
        found = measure(site.adapted, checked_cuts, self.snapshot.train, site.accelerator.autocast)
        total = len(self.snapshot.train) + len(self.snapshot.eval)
        order = sorted(zip(cuts, found, strict=True), key=lambda pair: _gain(pair[1]), reverse=True)
        for (key, each, checked), costs in order:
            taken = round(self._taken(total))
            free = {where: size - taken for where, size in free_bytes(each, self.folder).items()}
            limits = CacheLimits(self.budget - taken, free, passes, cache_requested(each.spec))
            extra = sum(size for part, size in costs.row_bytes.items() if part not in self._bytes)
            chosen = choose_placement(costs, extra, total, limits)
            entry = self.entries[key] = CutEntry(self._name(each), checked.cut, checked.shape_only, chosen)
            if entry.kept:
                self._bytes |= costs.row_bytes
                fresh = [part for part in checked.cut.kept if part.key not in self._features]
                if chosen.where == "disk":
                    self._features |= open_features(each, fresh)
            how = "again in every epoch" if chosen.where == "recompute" else "once a row"
            self.emit(Note(f"{entry.name}: the frozen part is computed {how}, {chosen.why}"))

    def _taken(self, total: int) -> float:
        return total * sum(self._bytes.values())

    def _fill(self, chosen: Sequence[tuple[Key, CutSite]]) -> None:
        """Compute all chosen outputs that are missing, in one pass over the rows."""
        if not chosen:
            return
        cuts = [cut for key, _ in chosen if (cut := self.entries[key].cut) is not None]
        site = site_with_modules([site for _, site in chosen], cuts)
        sides, everything = self._all_sides(site), union(cuts)
        features = {part.key: self._features[part.key] for part in everything.kept if part.key in self._features}
        trunk = Trunk(site.adapted, everything, sides, features, False, self._memo)
        total = sum(len(side.rows) for side in sides)
        began = time.perf_counter()
        with filling(features.values()):
            # Features of other cuts are not refreshed: their rows' positions refer to the state when they were read.
            for found in features.values():
                found.refresh()
            computed = fill_trunk(trunk, site, self.folder, self._emit_progress)
        self.shared.rows, self.shared.computed = total, self.shared.computed + computed
        self.shared.reused += total - computed
        self.shared.bytes = round(self._taken(total))
        self.shared.saved_s -= time.perf_counter() - began

    def _emit_progress(self, done: int, of: int) -> None:
        """Emit progress at intervals, since the coordinator may be on another machine."""
        if done == of or time.monotonic() - self._last_progress >= PROGRESS_S:
            self._last_progress = time.monotonic()
            self.emit(TrunkProgress(done, of))

    def _give_up(self, cuts: Iterable[tuple[Key, CutSite, CheckedCut]], why: str) -> None:
        """Drop the outputs of these cuts, except for those that other cuts need."""
        for key, site, checked in cuts:
            plan = CachePlacement("recompute", why, 0, 0.0, 0.0)
            self.entries[key] = CutEntry(self._name(site), checked.cut, checked.shape_only, plan)
        used = {part.key for entry in self.entries.values() if entry.kept and entry.cut for part in entry.cut.kept}
        self._bytes = {part: size for part, size in self._bytes.items() if part in used}
        self._features = {part: found for part, found in self._features.items() if part in used}
        of = f" of {self.of}" if self.of else ""
        self.emit(Note(f"the frozen part{of} is computed again in every epoch: {why}"))

    def read(self, key: Key, rows: float) -> None:
        """Count rows that trials have read instead of computing them."""
        entry = self.entries.get(key)
        if entry is not None and entry.kept:
            self.shared.saved_s += rows * entry.plan.compute_s


@contextmanager
def filling(features: Iterable[Features]) -> Iterator[None]:
    """Hold a lock of this machine while features are computed: other workers wait, and then find them."""
    names = "".join(sorted(found.prefix for found in features))
    with ExitStack() as stack:
        if names:
            name = hashlib.sha256(names.encode()).hexdigest()[:16]
            with suppress(StoreError):  # without the lock each worker computes them itself
                stack.enter_context(exclusive(cache_folder("features") / "filling" / name))
        yield


def cut_key(site: CutSite) -> Key:
    """Cache key of a model's cut: everything that determines where it is cut."""
    return live_modules(site.adapted), bool(site.spec.losses), site.spec.compute.trunk


def head_key(spec: RunSpec) -> Key:
    """Return the key of the cut before heads that train alone."""
    return frozenset({"head"}), False, spec.compute.trunk


def keepable(site: CutSite) -> bool:
    """Return `may_cache`, or False for a contradiction, which the trial itself reports."""
    try:
        return may_cache(site)
    except Unsupported:
        return False


def _gain(costs: CutCosts) -> float:
    """Return the seconds saved per pass and byte kept."""
    return (costs.compute_s - costs.join_s) / max(1.0, sum(costs.row_bytes.values()))


def site_with_modules(sites: Sequence[CutSite], cuts: Sequence[Cut]) -> CutSite:
    """Return a site whose model has every module of the cuts; LoRA inserts modules and changes names."""
    wanted = {part.module for cut in cuts for part in cut.kept}
    for site in sites:
        if wanted <= {name for name, _ in site.adapted.model.named_modules()}:
            return site
    raise NotCut("no model of this search holds all modules that are to be kept")


def frozen_name(adapted: Adapted) -> str:
    """Return a readable name of a model's frozen part."""
    method = adapted.moves or adapted.method
    if method.serves == "head":
        return "all but the head"
    depth = method.depth_of(adapted.anatomy)
    return f"depth {depth}" if depth else f"method {method.key()}"


def task_key(spec: RunSpec) -> str:
    """Return a key of how a spec's rows are read; trials with equal keys share outputs."""
    return json.dumps([spec.task.model_dump(mode="json"), spec.compute.precision], sort_keys=True)


def sharing_totals(every: Iterable[SharedCuts]) -> dict[str, Any]:
    """Return what trials of all tasks shared, in the form of the search's record."""
    every = list(every)
    entries = [entry for cuts in every for entry in cuts.entries.values() if entry.cut is not None]
    places = dict.fromkeys(entry.plan.where for entry in entries)
    return {
        "rows": max((cuts.shared.rows for cuts in every), default=0),
        "computed": sum(cuts.shared.computed for cuts in every),
        "reused": sum(cuts.shared.reused for cuts in every),
        "bytes": sum(cuts.shared.bytes for cuts in every),
        "where": ", ".join(places),
        "why": "; ".join(f"{entry.name}: {entry.plan.where}, {entry.plan.why}" for entry in entries),
        "saved_s": sum(cuts.shared.saved_s for cuts in every),
    }
