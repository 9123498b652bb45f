"""Which checkpoints of a search stay: the best trials' and the live ones' last, within one quota for all of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from regraft.contracts import Score
from regraft.errors import Damaged, NotFound
from regraft.store.checkpoints import remove
from regraft.store.manifest import MANIFEST, load
from regraft.store.objects import ObjectStore
from regraft.tuning.records import TrialRecord

log = logging.getLogger(__name__)
OVERHEAD = 4096
"""Bytes that a checkpoint takes beside its tensors at most: its state and its manifest."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One committed checkpoint."""

    trial: str
    prefix: str
    bytes: int
    score: float | None
    order: int
    """A count: later is larger."""


class CheckpointBudget:
    """The checkpoints of all trials and what they take. Not thread-safe: its owner holds a lock.

    Kept are the `keep` best over all trials (one a trial), the last of each live trial, and those of registered trials.
    Where the quota does not suffice for these, they go in the order: last ones of live trials, then the worst of the
    best; never the very best, and never a registered one. Nothing is written before there is room for it.
    """

    def __init__(self, store: ObjectStore, folder: str, score: Score, keep: int, quota: int | None) -> None:
        self._store, self._prefix = store, f"{folder}/trials/"
        self._score, self._keep, self._quota = score, keep, quota
        self._kept: dict[str, Kept] = {}
        self._promised: dict[str, list[int]] = defaultdict(list)
        self._live: set[str] = set()
        self._registered: set[str] = set()
        self._count = 0

    @property
    def used(self) -> int:
        """Bytes of all checkpoints, and of those that were promised room."""
        return sum(kept.bytes for kept in self._kept.values()) + sum(map(sum, self._promised.values()))

    def collect(self, records: Sequence[TrialRecord]) -> int:
        """Take up what earlier attempts left, and delete what nobody asks for; how many went.

        Of a trial that ended what its record names stays; of one that did not, best and last, from which it may go on.
        What was never committed, or belongs to no trial, goes. A record's `checkpoint` that is not there is forgotten.
        """
        sizes: dict[str, int] = defaultdict(int)
        whole: set[str] = set()
        for stat in self._store.list(self._prefix):
            folder, slash, name = stat.key.rpartition("/")
            sizes[folder + slash] += stat.size
            whole |= {folder + slash} if name == MANIFEST else set()
        by_trial = {f"{self._prefix}{record.id}/": record for record in records}
        gone = 0
        for prefix in sorted(sizes):
            record = by_trial.get(self._prefix + prefix.removeprefix(self._prefix).partition("/")[0] + "/")
            if record is None or prefix not in whole or not self._wanted(record, prefix, sizes[prefix]):
                remove(self._store, prefix)
                gone += 1
        for record in records:
            if record.checkpoint not in self._kept:
                record.checkpoint = None
            if record.registered:
                self._registered.add(record.id)
        before = len(self._kept)
        self._tidy()
        return gone + before - len(self._kept)

    def _wanted(self, record: TrialRecord, prefix: str, size: int) -> bool:
        """Whether a committed checkpoint is taken up."""
        if record.status in ("finished", "stopped"):
            if prefix != record.checkpoint:
                return False
            self._add(record.id, prefix, size, (record.best or {}).get(self._score.name))
            return True
        metrics = self._metrics(prefix)
        if record.status == "failed" or metrics is None:
            return False
        self._live.add(record.id)
        self._add(record.id, prefix, size, metrics.get(self._score.name))
        return True

    def _metrics(self, prefix: str) -> dict[str, float] | None:
        try:
            return dict(load(self._store, prefix).meta.get("metrics") or {})
        except (Damaged, NotFound) as error:
            log.warning("%s", error)
            return None

    def better(self, trial: str, than: Mapping[str, float] | None) -> dict[str, float] | None:
        """The metrics of a trial's best checkpoint where they are better than that; else None."""
        prefix = self.of(trial)
        if prefix is None or (score := self._kept[prefix].score) is None:
            return None
        if not self._score.better(score, (than or {}).get(self._score.name)):
            return None
        return self._metrics(prefix)

    def began(self, trial: str) -> None:
        """The trial is live."""
        self._live.add(trial)

    def reserve(self, trial: str, count: int) -> bool:
        """Whether a checkpoint of `count` bytes may be written now; reserve is made for it where that is allowed."""
        count += OVERHEAD
        if self._quota is not None:
            expendable = self._expendable()
            if self.used + count - sum(kept.bytes for kept in expendable) > self._quota:
                return False
            while self.used + count > self._quota:
                self._delete([expendable.pop(0)])
        self._promised[trial].append(count)
        return True

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """A checkpoint is committed."""
        if promised := self._promised[trial]:
            promised.pop(0)
        self._add(trial, prefix, count + OVERHEAD, score)
        self._tidy()

    def ended(self, trial: str, *, failed: bool = False) -> None:
        """The trial is live no longer; of one that failed nothing stays."""
        self._live.discard(trial)
        self._promised.pop(trial, None)
        if failed:
            self._delete(kept for kept in list(self._kept.values()) if kept.trial == trial)
        self._tidy()

    def registered(self, trial: str) -> None:
        """The trial became a version: its checkpoint stays."""
        self._registered.add(trial)

    def of(self, trial: str) -> str | None:
        """The prefix of a trial's best checkpoint that is there; None when there is none."""
        mine = [kept for kept in self._kept.values() if kept.trial == trial]
        return min(mine, key=self._rank).prefix if mine else None

    def _add(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        prefix = prefix if prefix.endswith("/") else f"{prefix}/"
        self._count += 1
        self._kept[prefix] = Kept(trial, prefix, count, score, self._count)

    def _rank(self, kept: Kept) -> tuple[bool, float, int]:
        """Best first; of equals the earlier."""
        sign = -1.0 if self._score.mode == "max" else 1.0
        return kept.score is None, sign * (kept.score or 0.0), kept.order

    def _best(self) -> list[Kept]:
        """The best checkpoint of each trial, best first."""
        first: dict[str, Kept] = {}
        for kept in sorted(self._kept.values(), key=self._rank):
            first.setdefault(kept.trial, kept)
        return list(first.values())

    def _last(self) -> dict[str, Kept]:
        """The newest checkpoint of each live trial."""
        ordered = sorted(self._kept.values(), key=lambda kept: kept.order)
        return {kept.trial: kept for kept in ordered if kept.trial in self._live}

    def _tidy(self) -> None:
        """Delete what nothing asks to keep; of a live trial also its best so far stays, which its end may name."""
        best = self._best()
        stay = {kept.prefix for kept in best[: self._keep]} | {kept.prefix for kept in self._last().values()}
        stay |= {kept.prefix for kept in best if kept.trial in self._live or kept.trial in self._registered}
        self._delete(kept for kept in list(self._kept.values()) if kept.prefix not in stay)

    def _expendable(self) -> list[Kept]:
        """What may go for want of room, first to go first."""
        best = self._best()
        safe = {best[0].prefix} if best else set()
        safe |= {kept.prefix for kept in best if kept.trial in self._registered}
        top = {kept.prefix for kept in best[: self._keep]}
        free = [kept for kept in self._kept.values() if kept.prefix not in safe]
        return sorted(free, key=lambda kept: (kept.prefix in top, *(-part for part in self._rank(kept))))

    def _delete(self, kept: Iterable[Kept]) -> None:
        for one in kept:
            remove(self._store, one.prefix)
            self._kept.pop(one.prefix, None)
