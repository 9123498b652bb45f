"""What the frozen parts of a search's models gave for each row: every depth from one pass, shared by all trials.

A trial's model is cut where its own training begins. Cuts of one task lie along the same frozen base, so that one pass
over the rows, up to the deepest of them, gives what all of them keep.
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
from regraft.data.local_cache import cache_folder, exclusive
from regraft.data.snapshot import Snapshot
from regraft.errors import StoreError, Unsupported
from regraft.spec.run import RunSpec
from regraft.training.cut_check import CutSite, as_not_cut, cache_requested, checked_cut, may_cache
from regraft.training.trunk_cache import cached_sides, fill_trunk, free_bytes, open_features
from regraft.trunk.cache import CachedRows, Memo, Trunk
from regraft.trunk.cost_model import CacheLimits, CachePlan, CheckedCut, CutCosts, choose_placement, measure
from regraft.trunk.cut import Cut, NotCut, NothingFrozen, union
from regraft.trunk.feature_store import Features
from regraft.trunk.trace import live_modules

log = logging.getLogger(__name__)

WORD_S = 0.5
"""Seconds between two words of progress."""

Key = tuple[frozenset[str], bool, str]
"""By what one task's models are told apart: the modules that train or drop out, whether loss terms look at them, and
where their values are to be kept."""


@dataclass
class Entry:
    """One cut of the shelf: where its values are, or why it has none."""

    name: str
    """`depth 4`, for people."""
    cut: Cut | None
    shape_only: bool
    plan: CachePlan

    @property
    def kept(self) -> bool:
        """Whether trials read its values."""
        return self.cut is not None and self.plan.where != "recompute"


@dataclass
class Shared:
    """What trials shared and what it saved, as figures that add up over workers."""

    rows: int = 0
    computed: int = 0
    reused: int = 0
    bytes: int = 0
    saved_s: float = 0.0


@dataclass
class SharedCuts:
    """The kept values of one task's rows, for every cut that trials asked for."""

    snapshot: Snapshot
    folder: Path
    """Scratch of this worker."""
    budget: int
    """The most bytes that all cuts may take."""
    emit: Progress
    shared: Shared = field(default_factory=Shared)
    entries: dict[Key, Entry] = field(default_factory=dict)
    _sides: tuple[CachedRows, CachedRows] | None = None
    _features: dict[str, Features] = field(default_factory=dict)
    _bytes: dict[str, float] = field(default_factory=dict)
    _memo: Memo = field(default_factory=Memo)
    _seen: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _said: float = 0.0

    def stock(self, sites: Sequence[CutSite], passes: float, heads: Sequence[tuple[CutSite, Cut]] = ()) -> None:
        """Find, check and plan the cuts of these freshly made models that are not known yet, and compute what is to be
        kept of them in one pass. `passes` is how often each row is seen behind each of them, at least; `heads` are
        models whose head alone trains, with what it sees."""
        fresh: dict[Key, CutSite] = {}
        for site in sites:
            if keepable(site) and (key := cut_key(site)) not in self.entries:
                fresh.setdefault(key, site)
        cuts: list[tuple[Key, CutSite, CheckedCut]] = []
        for key, site in fresh.items():
            found = self._cut(key, site)
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
        """What stands in for the frozen part of a trial's model; None where it is to be computed, Unsupported where it
        was asked for and cannot be kept."""
        if not may_cache(site):
            return None
        entry = self.entries.get(cut_key(site))
        if entry is None or entry.cut is None or not entry.kept:
            if entry is not None and cache_requested(site.spec):
                told = f"{site.spec.compute.trunk} is written, but {entry.plan.why}"
                raise Unsupported(told, where="compute.trunk")
            return None
        return Trunk(site.adapted, entry.cut, self._both(site), self._features, entry.shape_only, self._memo)

    def holds_heads(self, spec: RunSpec) -> bool:
        """Whether what such a spec's head sees is kept."""
        entry = self.entries.get(head_key(spec))
        return entry is not None and entry.kept

    def seen_by_heads(self, site: CutSite) -> tuple[Tensor, Tensor] | None:
        """What the head of the site's model sees of each row, (rows, width) in fp32 whatever it was computed in, by
        side; None where it is not kept."""
        entry = self.entries.get(head_key(site.spec))
        if entry is None or entry.cut is None or not entry.kept:
            return None
        (part,) = entry.cut.kept
        if part.key not in self._seen:
            trunk = Trunk(site.adapted, entry.cut, self._both(site), self._features)
            device = site.harness.device
            train, held = (
                torch.stack([trunk.value(side, part, index) for index in range(len(side.rows))]).float().to(device)
                for side in trunk.sides
            )
            self._seen[part.key] = train, held
        return self._seen[part.key]

    def _both(self, site: CutSite) -> tuple[CachedRows, CachedRows]:
        if self._sides is None:
            self._sides = cached_sides(site.spec, site.snapshot)
        return self._sides

    def _cut(self, key: Key, site: CutSite) -> CheckedCut | None:
        """The checked cut of a model; None, with a note where somebody would miss it, when it has none."""
        try:
            return checked_cut(site)
        except Exception as error:
            reason = as_not_cut(error)
        name = named(site.adapted)
        self.entries[key] = Entry(name, None, False, CachePlan("recompute", str(reason), 0, 0.0, 0.0))
        if not isinstance(reason, NothingFrozen):
            self.emit(Note(f"{name}: the frozen part is computed again in every epoch: {reason}"))
        return None

    def _plan(self, cuts: Sequence[tuple[Key, CutSite, CheckedCut]], passes: float) -> None:
        """Choose for each cut, the one that saves most a byte first, within what all of them may take."""
        site = able([site for _, site, _ in cuts], [checked.cut for *_, checked in cuts])
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
            entry = self.entries[key] = Entry(named(each.adapted), checked.cut, checked.shape_only, chosen)
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
        """One pass over the rows for everything that is chosen and not there."""
        if not chosen:
            return
        cuts = [cut for key, _ in chosen if (cut := self.entries[key].cut) is not None]
        site = able([site for _, site in chosen], cuts)
        sides, everything = self._both(site), union(cuts)
        features = {part.key: self._features[part.key] for part in everything.kept if part.key in self._features}
        trunk = Trunk(site.adapted, everything, sides, features, False, self._memo)
        total = sum(len(side.rows) for side in sides)
        began = time.perf_counter()
        with filling(features.values()):
            # Those of other cuts stay as they are: their rows' places count from what was there when they were read.
            for found in features.values():
                found.refresh()
            computed = fill_trunk(trunk, site, self.folder, self._told)
        self.shared.rows, self.shared.computed = total, self.shared.computed + computed
        self.shared.reused += total - computed
        self.shared.bytes = round(self._taken(total))
        self.shared.saved_s -= time.perf_counter() - began

    def _told(self, done: int, of: int) -> None:
        """Now and then: the desk may be on another machine, and answers each word."""
        if done == of or time.monotonic() - self._said >= WORD_S:
            self._said = time.monotonic()
            self.emit(TrunkProgress(done, of))

    def _give_up(self, cuts: Iterable[tuple[Key, CutSite, CheckedCut]], why: str) -> None:
        """Nothing of these cuts is used, but for what others keep too."""
        for key, site, checked in cuts:
            plan = CachePlan("recompute", why, 0, 0.0, 0.0)
            self.entries[key] = Entry(named(site.adapted), checked.cut, checked.shape_only, plan)
        used = {part.key for entry in self.entries.values() if entry.kept and entry.cut for part in entry.cut.kept}
        self._bytes = {part: size for part, size in self._bytes.items() if part in used}
        self._features = {part: found for part, found in self._features.items() if part in used}
        self.emit(Note(f"the frozen part is computed again in every epoch: {why}"))

    def read(self, key: Key, rows: float) -> None:
        """Trials have read so many rows instead of computing them."""
        entry = self.entries.get(key)
        if entry is not None and entry.kept:
            self.shared.saved_s += rows * entry.plan.compute_s


@contextmanager
def filling(features: Iterable[Features]) -> Iterator[None]:
    """One worker of this machine at a time fills the same features: the others wait, and find them there."""
    names = "".join(sorted(found.prefix for found in features))
    with ExitStack() as stack:
        if names:
            name = hashlib.sha256(names.encode()).hexdigest()[:16]
            with suppress(StoreError):  # without the lock each worker computes for itself
                stack.enter_context(exclusive(cache_folder("features") / "filling" / name))
        yield


def cut_key(site: CutSite) -> Key:
    """Cache key of a model's cut: everything that determines where it is cut."""
    return live_modules(site.adapted), bool(site.spec.losses), site.spec.compute.trunk


def head_key(spec: RunSpec) -> Key:
    """Of what heads see that train alone."""
    return frozenset({"head"}), False, spec.compute.trunk


def keepable(site: CutSite) -> bool:
    """`may_cache`, where a contradiction is for the trial to tell."""
    try:
        return may_cache(site)
    except Unsupported:
        return False


def _gain(costs: CutCosts) -> float:
    """Seconds saved for each byte kept, a pass."""
    return (costs.compute_s - costs.join_s) / max(1.0, sum(costs.row_bytes.values()))


def able(sites: Sequence[CutSite], cuts: Sequence[Cut]) -> CutSite:
    """A site whose model has every module of the cuts: LoRA puts modules between others, under other names."""
    wanted = {part.module for cut in cuts for part in cut.kept}
    for site in sites:
        if wanted <= {name for name, _ in site.adapted.model.named_modules()}:
            return site
    raise NotCut("no model of this search holds all modules that are to be kept")


def named(adapted: Adapted) -> str:
    """A model's frozen part, for people."""
    method = adapted.method
    if method.serves == "head":
        return "all but the head"
    depth = method.depth_of(adapted.anatomy)
    return f"depth {depth}" if depth else f"method {method.key()}"


def task_key(spec: RunSpec) -> str:
    """By what shelves are told apart: how rows are read."""
    return json.dumps([spec.task.model_dump(mode="json"), spec.compute.precision], sort_keys=True)


def sharing_totals(every: Iterable[SharedCuts]) -> dict[str, Any]:
    """Return what trials shared over all tasks, as it stands in the search's record."""
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
