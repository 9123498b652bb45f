"""Which checkpoints does a run have, which is the newest that can be trusted, and which may go?"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

from regraft.errors import Damaged, NotFound
from regraft.store import manifest as manifests
from regraft.store.manifest import MANIFEST, Manifest
from regraft.store.objects import Body, ObjectStore, Stat, checked

_FOLDER = re.compile(r"(\d{8,})-([0-9a-f]{8})")


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the `best` by `metric` (looked up in `meta["metrics"]`), the `last`, and `protect`.

    With `last=1` nothing stands behind the newest one should it be damaged later; 2 is safer.
    """

    best: int = 1
    last: int = 1
    metric: str | None = None
    mode: Literal["min", "max"] = "max"
    protect: frozenset[str] = frozenset()
    """Ids of checkpoints (the short one or the manifest's) that are never deleted."""


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint. `id` is the first eight digits of its manifest's id; `prefix` ends with a slash."""

    step: int
    id: str
    prefix: str
    run: str
    store: ObjectStore = field(repr=False, compare=False)

    @cached_property
    def manifest(self) -> Manifest:
        """Read at first use. Damaged when it cannot be trusted or belongs to another run or step."""
        found = manifests.load(self.store, self.prefix)
        told = found.meta.get("run"), found.meta.get("step"), found.id[:8], found.kind
        if told != (self.run, self.step, self.id, "checkpoint"):
            raise Damaged(
                f"it belongs to {told[3]} {told[2]} of run {told[0]!r}, step {told[1]!r}",
                f"{self.store.url}/{self.prefix}{MANIFEST}",
            )
        return found

    @property
    def meta(self) -> dict[str, Any]:
        """What was given to `save`, with run and step."""
        return self.manifest.meta


class Checkpoints:
    """The checkpoints of one run, under `runs/<run>/checkpoints/`, or under those of another `folder`."""

    def __init__(self, store: ObjectStore, run: str, folder: str | None = None) -> None:
        self.store = store
        self.run = run
        self._prefix = checked(f"{folder or f'runs/{run}'}/checkpoints") + "/"

    @classmethod
    def of_trial(cls, store: ObjectStore, search: str, trial: str) -> Self:
        """Those of a search's trial; `run` is then `<search>/<trial>`."""
        return cls(store, f"{search}/{trial}", f"searches/{search}/trials/{trial}")

    def save(self, step: int, files: Mapping[str, Body], meta: Mapping[str, Any]) -> Saved:
        """Commit `files` as the checkpoint after `step` optimizer steps; until it returns, nothing of it is listed."""
        id = uuid4().hex
        saved = Saved(step, id[:8], f"{self._prefix}{step:08d}-{id[:8]}/", self.run, self.store)
        meta = {**meta, "run": self.run, "step": step}
        manifests.commit(self.store, saved.prefix, files, kind="checkpoint", meta=meta, id=id)
        return saved

    def listed(self) -> list[Saved]:
        """The committed checkpoints, oldest first: by step, and by time where a step was saved twice."""
        found = []
        for folder, stats in self._folders().items():
            match = _FOLDER.fullmatch(folder)
            committed = next((stat for stat in stats if stat.key.endswith(f"/{folder}/{MANIFEST}")), None)
            if match and committed:
                saved = Saved(int(match[1]), match[2], f"{self._prefix}{folder}/", self.run, self.store)
                found.append((saved.step, committed.modified, saved.id, saved))
        return [saved for *_, saved in sorted(found, key=lambda item: item[:3])]

    def latest(self, into: Path, on_damaged: Callable[[Damaged], None]) -> tuple[Saved, Path] | None:
        """The newest checkpoint whose files all verify, fetched to a folder below `into`; None when there is none.

        Each damaged one on the way is handed to `on_damaged`, which may raise; a store that does not answer is an
        error, never a reason to fall back.
        """
        for saved in reversed(self.listed()):
            try:
                return saved, self.open(saved, into)
            except NotFound:
                continue  # deleted by another process since it was listed
            except Damaged as error:
                if self.store.exists(saved.prefix + MANIFEST):
                    on_damaged(error)
        return None

    def open(self, saved: Saved, into: Path) -> Path:
        """Fetch `saved`, verified, into its own folder below `into`; that folder."""
        path = into / saved.prefix.removesuffix("/").rpartition("/")[2]
        _ = saved.manifest  # refuses another step's manifest before anything is fetched
        manifests.fetch_verified(self.store, saved.prefix, path)
        return path

    def sound(self) -> list[Saved]:
        """`listed`, but for those whose manifest cannot be trusted."""
        return [saved for saved in self.listed() if _sound(saved)]

    def retain(self, policy: Retention) -> list[str]:
        """Delete the checkpoints that `policy` does not keep; their prefixes.

        One whose manifest is damaged neither counts nor goes: someone should look at it.
        """
        sound = self.sound()
        kept = {saved.prefix for saved in sound[-policy.last :]} if policy.last > 0 else set()
        kept |= {saved.prefix for saved in _best(sound, policy)}
        protected = {id[:8] for id in policy.protect}
        gone = [saved.prefix for saved in sound if saved.prefix not in kept and saved.id not in protected]
        for prefix in gone:
            remove(self.store, prefix)
        return gone

    def collect(self, older_than_s: float) -> list[str]:
        """Delete what was never committed, or half deleted, and not touched for that long; its prefixes.

        Choose it longer than any upload takes.
        """
        before = time.time() - older_than_s
        gone = []
        for folder, stats in self._folders().items():
            committed = any(stat.key.endswith(f"/{folder}/{MANIFEST}") for stat in stats)
            if not committed and max(stat.modified for stat in stats) < before:
                self.store.delete([stat.key for stat in stats])
                gone.append(f"{self._prefix}{folder}/")
        return gone

    def _folders(self) -> dict[str, list[Stat]]:
        folders: dict[str, list[Stat]] = defaultdict(list)
        for stat in self.store.list(self._prefix):
            folder, slash, _ = stat.key.removeprefix(self._prefix).partition("/")
            if slash:
                folders[folder].append(stat)
        return folders


def remove(store: ObjectStore, prefix: str) -> None:
    """Delete the checkpoint under a prefix that ends with a slash."""
    # The manifest goes first: what is left after a crash is garbage and not half a checkpoint.
    store.delete([prefix + MANIFEST])
    store.delete([stat.key for stat in store.list(prefix)])


def _sound(saved: Saved) -> bool:
    try:
        return bool(saved.manifest)
    except (Damaged, NotFound):
        return False


def _best(found: Iterable[Saved], policy: Retention) -> list[Saved]:
    if policy.metric is None or policy.best <= 0:
        return []
    return ranked(found, policy.metric, policy.mode)[: policy.best]


def ranked(found: Iterable[Saved], metric: str, mode: Literal["min", "max"]) -> list[Saved]:
    """The evaluated ones among `found` (oldest first), best first; of equals the earliest step.

    Of a step that was saved twice the later copy counts: a run saves a step again when it passed over a damaged copy.
    """
    latest = {saved.step: saved for saved in found}
    scored = [(score, saved) for saved in latest.values() if (score := _score(saved, metric)) is not None]
    sign = 1 if mode == "min" else -1
    return [saved for _, saved in sorted(scored, key=lambda item: (sign * item[0], item[1].step))]


def _score(saved: Saved, metric: str) -> float | None:
    metrics = saved.meta.get("metrics")
    value = metrics.get(metric) if isinstance(metrics, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
