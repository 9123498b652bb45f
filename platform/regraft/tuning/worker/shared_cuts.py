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
from accelerate import Accelerator
from torch import Tensor

from regraft.bases.adapted import Adapted
from regraft.contracts import Note, Progress, TrunkProgress
from regraft.data.local_cache import cache_folder, one_at_a_time
from regraft.data.snapshot import Snapshot
from regraft.errors import StoreError, Unsupported
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.training.harness import Harness
from regraft.training.trunk_cache import KEPT_AGREES, asked, both_sides, checked_cut, may_keep, opened, rooms
from regraft.trunk.cache import Kept, Memo, Trunk, astray, fill
from regraft.trunk.cost_model import Figures, Limits, Plan, choose, measured
from regraft.trunk.cut import Cut, NotCut, NothingFrozen, union
from regraft.trunk.feature_store import Features
from regraft.trunk.trace import live_modules

log = logging.getLogger(__name__)

WORD_S = 0.5
"""Seconds between two words of progress."""

Key = tuple[frozenset[str], bool, str]
"""By what one task's models are told apart: the modules that train or drop out, whether loss terms look at them, and
where their values are to be kept."""


@dataclass(frozen=True)
class TrialSite:
    """One model of a search in the place of a run; `training.frozen.TrialSite`."""

    spec: RunSpec
    snapshot: Snapshot
    adapted: Adapted
    harness: Harness
    accelerator: Accelerator
    store: ObjectStore

    def key(self) -> Key:
        """Of what its cut is."""
        return live_modules(self.adapted), bool(self.spec.losses), self.spec.compute.trunk


@dataclass
class Entry:
    """One cut of the shelf: where its values are, or why it has none."""

    name: str
    """`depth 4`, for people."""
    cut: Cut | None
    hollow: bool
    plan: Plan

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
    _sides: tuple[Kept, Kept] | None = None
    _features: dict[str, Features] = field(default_factory=dict)
    _bytes: dict[str, float] = field(default_factory=dict)
    _memo: Memo = field(default_factory=Memo)
    _seen: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _said: float = 0.0

    def stock(self, sites: Sequence[TrialSite], passes: float, heads: Sequence[tuple[TrialSite, Cut]] = ()) -> None:
        """Find, check and plan the cuts of these freshly made models that are not known yet, and compute what is to be
        kept of them in one pass. `passes` is how often each row is seen behind each of them, at least; `heads` are
        models whose head alone trains, with what it sees."""
        fresh: dict[Key, TrialSite] = {}
        for site in sites:
            if keepable(site) and (key := site.key()) not in self.entries:
                fresh.setdefault(key, site)
        cuts: list[tuple[Key, TrialSite, Cut, bool]] = []
        for key, site in fresh.items():
            found = self._cut(key, site)
            if found is not None:
                cuts.append((key, site, *found))
        for key, (site, cut) in {head_key(site.spec): (site, cut) for site, cut in heads}.items():
            if key not in self.entries:
                cuts.append((key, site, cut, True))
        if not cuts:
            return
        try:
            self._plan(cuts, passes)
            self._fill([(key, site) for key, site, *_ in cuts if self.entries[key].kept])
        except Exception as error:
            log.info("the frozen part cannot be kept", exc_info=True)
            told = f"keeping it failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
            self._give_up(cuts, told)

    def trunk(self, site: TrialSite) -> Trunk | None:
        """What stands in for the frozen part of a trial's model; None where it is to be computed, Unsupported where it
        was asked for and cannot be kept."""
        if not may_keep(site):
            return None
        entry = self.entries.get(site.key())
        if entry is None or entry.cut is None or not entry.kept:
            if entry is not None and asked(site.spec):
                told = f"{site.spec.compute.trunk} is written, but {entry.plan.why}"
                raise Unsupported(told, where="compute.trunk")
            return None
        return Trunk(site.adapted, entry.cut, self._both(site), self._features, entry.hollow, self._memo)

    def holds_heads(self, spec: RunSpec) -> bool:
        """Whether what such a spec's head sees is kept."""
        entry = self.entries.get(head_key(spec))
        return entry is not None and entry.kept

    def seen_by_heads(self, site: TrialSite) -> tuple[Tensor, Tensor] | None:
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

    def _both(self, site: TrialSite) -> tuple[Kept, Kept]:
        if self._sides is None:
            self._sides = both_sides(site)
        return self._sides

    def _cut(self, key: Key, site: TrialSite) -> tuple[Cut, bool] | None:
        """The checked cut of a model; None, with a note where somebody would miss it, when it has none."""
        try:
            return checked_cut(site)
        except NotCut as error:
            reason = error
        except Exception as error:
            log.info("the frozen part cannot be kept", exc_info=True)
            reason = NotCut(f"keeping it failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})")
        name = named(site.adapted)
        self.entries[key] = Entry(name, None, False, Plan("recompute", str(reason), 0, 0.0, 0.0))
        if not isinstance(reason, NothingFrozen):
            self.emit(Note(f"{name}: the frozen part is computed anew in every epoch: {reason}"))
        return None

    def _plan(self, cuts: Sequence[tuple[Key, TrialSite, Cut, bool]], passes: float) -> None:
        """Choose for each cut, the one that saves most a byte first, within what all of them may take."""
        site = able([site for _, site, *_ in cuts], [cut for *_, cut, _ in cuts])
        autocast = site.accelerator.autocast
        found = measured(
            site.adapted, [(cut, hollow) for *_, cut, hollow in cuts], self.snapshot.train, autocast=autocast
        )
        total = len(self.snapshot.train) + len(self.snapshot.eval)
        order = sorted(zip(cuts, found, strict=True), key=lambda pair: _gain(pair[1]), reverse=True)
        for (key, each, cut, hollow), figures in order:
            room = {where: size - round(self._taken(total)) for where, size in rooms(each, self.folder).items()}
            limits = Limits(self.budget - round(self._taken(total)), room, passes, asked(each.spec))
            extra = sum(size for part, size in figures.row_bytes.items() if part not in self._bytes)
            chosen = choose(figures.compute_s, figures.join_s, extra, total, limits)
            entry = self.entries[key] = Entry(named(each.adapted), cut, hollow, chosen)
            if entry.kept:
                self._bytes |= figures.row_bytes
                fresh = [part for part in cut.kept if part.key not in self._features]
                if chosen.where == "disk":
                    self._features |= opened(each, fresh)
            how = "anew in every epoch" if chosen.where == "recompute" else "once a row"
            self.emit(Note(f"{entry.name}: the frozen part is computed {how}, {chosen.why}"))

    def _taken(self, total: int) -> float:
        return total * sum(self._bytes.values())

    def _fill(self, chosen: Sequence[tuple[Key, TrialSite]]) -> None:
        """One pass over the rows for everything that is chosen and not there."""
        if not chosen:
            return
        cuts = [cut for key, _ in chosen if (cut := self.entries[key].cut) is not None]
        site = able([site for _, site in chosen], cuts)
        sides, everything = self._both(site), union(cuts)
        features = {part.key: self._features[part.key] for part in everything.kept if part.key in self._features}
        trunk = Trunk(site.adapted, everything, sides, features, False, self._memo)
        autocast = site.accelerator.autocast
        total = sum(len(side.rows) for side in sides)
        began = time.perf_counter()
        with filling(features.values()):
            # Those of other cuts stay as they are: their rows' places count from what was there when they were read.
            for found in features.values():
                found.refresh()
            if (apart := astray(trunk, autocast)) > KEPT_AGREES[site.accelerator.mixed_precision]:
                places = ", ".join(found.prefix for found in features.values())
                raise NotCut(
                    f"what the store holds in {places} is not what this model computes (it differs by {apart:.1%}): "
                    "delete it there"
                )
            computed = fill(trunk, self.folder, autocast=autocast, told=lambda done, of: self._told(done, of))
        for found in features.values():
            found.refresh()
        if any(side.missing(everything.kept, features).any() for side in sides):
            raise NotCut("features that were written are not in the store")
        self.shared.rows, self.shared.computed = total, self.shared.computed + computed
        self.shared.reused += total - computed
        self.shared.bytes = round(self._taken(total))
        self.shared.saved_s -= time.perf_counter() - began

    def _told(self, done: int, of: int) -> None:
        """Now and then: the desk may be on another machine, and answers each word."""
        if done == of or time.monotonic() - self._said >= WORD_S:
            self._said = time.monotonic()
            self.emit(TrunkProgress(done, of))

    def _give_up(self, cuts: Iterable[tuple[Key, TrialSite, Cut, bool]], why: str) -> None:
        """Nothing of these cuts is used, but for what others keep too."""
        for key, site, cut, hollow in cuts:
            self.entries[key] = Entry(named(site.adapted), cut, hollow, Plan("recompute", why, 0, 0.0, 0.0))
        used = {part.key for entry in self.entries.values() if entry.kept and entry.cut for part in entry.cut.kept}
        self._bytes = {part: size for part, size in self._bytes.items() if part in used}
        self._features = {part: found for part, found in self._features.items() if part in used}
        self.emit(Note(f"the frozen part is computed anew in every epoch: {why}"))

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
                stack.enter_context(one_at_a_time(cache_folder("features") / "filling" / name))
        yield


def head_key(spec: RunSpec) -> Key:
    """Of what heads see that train alone."""
    return frozenset({"head"}), False, spec.compute.trunk


def keepable(site: TrialSite) -> bool:
    """`may_keep`, where a contradiction is for the trial to tell."""
    try:
        return may_keep(site)
    except Unsupported:
        return False


def _gain(figures: Figures) -> float:
    """Seconds saved for each byte kept, a pass."""
    return (figures.compute_s - figures.join_s) / max(1.0, sum(figures.row_bytes.values()))


def able(sites: Sequence[TrialSite], cuts: Sequence[Cut]) -> TrialSite:
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
