"""Retention of a search's checkpoints: the best trials' and the newest of live trials, within one quota for all."""

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
"""An upper limit of a checkpoint's bytes besides its tensors: its state and its manifest."""


@dataclass(frozen=True, slots=True)
class BudgetedCheckpoint:
    """One committed checkpoint."""

    trial: str
    prefix: str
    bytes: int
    score: float | None
    order: int
    """Position in the order of commits."""


class CheckpointBudget:
    """The checkpoints of all trials and the space they take. Not thread-safe: the owner holds a lock.

    Retained are the `keep` best checkpoints over all trials (one per trial), the newest of each live trial, and those
    of registered trials. If the quota is too small for these, the newest ones of live trials go first, then the worst
    of the best; never the very best, and never a registered one. Space is freed before anything is written.
    """

    def __init__(self, store: ObjectStore, folder: str, score: Score, *, keep: int, quota: int | None) -> None:
        self._store, self._prefix = store, f"{folder}/trials/"
        self._score, self._keep, self._quota = score, keep, quota
        self._kept: dict[str, BudgetedCheckpoint] = {}
        self._reserved: dict[str, list[int]] = defaultdict(list)
        self._live: set[str] = set()
        self._registered: set[str] = set()
        self._count = 0

    @property
    def used(self) -> int:
        """Bytes of all checkpoints and reservations."""
        return sum(kept.bytes for kept in self._kept.values()) + sum(map(sum, self._reserved.values()))

    def collect(self, records: Sequence[TrialRecord]) -> int:
        """Take over the checkpoints of earlier attempts, delete the unwanted ones, and return how many were deleted.

        A trial that ended keeps the checkpoint that its record names; any other keeps its best and its newest, from
        which it may go on. Checkpoints that were never committed, or belong to no trial, are deleted. A record's
        `checkpoint` is cleared if it does not exist.
        """
        sizes: dict[str, int] = defaultdict(int)
        committed: set[str] = set()
        for stat in self._store.list(self._prefix):
            folder, slash, name = stat.key.rpartition("/")
            sizes[folder + slash] += stat.size
            committed |= {folder + slash} if name == MANIFEST else set()
        by_trial = {f"{self._prefix}{record.id}/": record for record in records}
        deleted = 0
        for prefix in sorted(sizes):
            record = by_trial.get(self._prefix + prefix.removeprefix(self._prefix).partition("/")[0] + "/")
            if record is None or prefix not in committed or not self._take_over(record, prefix, sizes[prefix]):
                remove(self._store, prefix)
                deleted += 1
        for record in records:
            if record.checkpoint not in self._kept:
                record.checkpoint = None
            if record.registered:
                self._registered.add(record.id)
        before = len(self._kept)
        self._prune()
        return deleted + before - len(self._kept)

    def _take_over(self, record: TrialRecord, prefix: str, size: int) -> bool:
        """Add a committed checkpoint of an earlier attempt; return False if it is not wanted."""
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
        """Return the metrics of a trial's best checkpoint if they are better than `than`, else None."""
        prefix = self.best_of(trial)
        if prefix is None or (score := self._kept[prefix].score) is None:
            return None
        if not self._score.better(score, (than or {}).get(self._score.name)):
            return None
        return self._metrics(prefix)

    def began(self, trial: str) -> None:
        """Mark a trial as live."""
        self._live.add(trial)

    def reserve(self, trial: str, count: int) -> bool:
        """Reserve space for a checkpoint of `count` bytes, after deleting expendable checkpoints if necessary.

        Returns False, and deletes nothing, if that would not free enough.
        """
        count += OVERHEAD
        if self._quota is not None:
            expendable = self._expendable()
            if self.used + count - sum(kept.bytes for kept in expendable) > self._quota:
                return False
            while self.used + count > self._quota:
                self._delete([expendable.pop(0)])
        self._reserved[trial].append(count)
        return True

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """Replace the trial's oldest reservation by a committed checkpoint."""
        if reserved := self._reserved[trial]:
            reserved.pop(0)
        self._add(trial, prefix, count + OVERHEAD, score)
        self._prune()

    def ended(self, trial: str, *, failed: bool = False) -> None:
        """Mark a trial as no longer live and release its reservations; a failed trial loses its checkpoints."""
        self._live.discard(trial)
        self._reserved.pop(trial, None)
        if failed:
            self._delete(kept for kept in list(self._kept.values()) if kept.trial == trial)
        self._prune()

    def registered(self, trial: str) -> None:
        """Mark a trial as registered, so that its checkpoint stays."""
        self._registered.add(trial)

    def best_of(self, trial: str) -> str | None:
        """Return the prefix of a trial's best checkpoint; None if it has none."""
        mine = [kept for kept in self._kept.values() if kept.trial == trial]
        return min(mine, key=self._rank).prefix if mine else None

    def _add(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        prefix = prefix if prefix.endswith("/") else f"{prefix}/"
        self._count += 1
        self._kept[prefix] = BudgetedCheckpoint(trial, prefix, count, score, self._count)

    def _rank(self, kept: BudgetedCheckpoint) -> tuple[bool, float, int]:
        """Return a sort key: best first, and the earlier of equals."""
        sign = -1.0 if self._score.mode == "max" else 1.0
        return kept.score is None, sign * (kept.score or 0.0), kept.order

    def _best(self) -> list[BudgetedCheckpoint]:
        """Return the best checkpoint of each trial, best first."""
        first: dict[str, BudgetedCheckpoint] = {}
        for kept in sorted(self._kept.values(), key=self._rank):
            first.setdefault(kept.trial, kept)
        return list(first.values())

    def _newest(self) -> dict[str, BudgetedCheckpoint]:
        """Return the newest checkpoint of each live trial."""
        ordered = sorted(self._kept.values(), key=lambda kept: kept.order)
        return {kept.trial: kept for kept in ordered if kept.trial in self._live}

    def _prune(self) -> None:
        """Delete what nothing retains. A live trial also keeps its best so far, which its end may name."""
        best = self._best()
        stay = {kept.prefix for kept in best[: self._keep]} | {kept.prefix for kept in self._newest().values()}
        stay |= {kept.prefix for kept in best if kept.trial in self._live or kept.trial in self._registered}
        self._delete(kept for kept in list(self._kept.values()) if kept.prefix not in stay)

    def _expendable(self) -> list[BudgetedCheckpoint]:
        """Return the checkpoints that may go for lack of space, the first to go first."""
        best = self._best()
        safe = {best[0].prefix} if best else set()
        safe |= {kept.prefix for kept in best if kept.trial in self._registered}
        top = {kept.prefix for kept in best[: self._keep]}
        free = [kept for kept in self._kept.values() if kept.prefix not in safe]
        return sorted(free, key=lambda kept: (kept.prefix in top, *(-key for key in self._rank(kept))))

    def _delete(self, kept: Iterable[BudgetedCheckpoint]) -> None:
        for one in kept:
            remove(self._store, one.prefix)
            self._kept.pop(one.prefix, None)
