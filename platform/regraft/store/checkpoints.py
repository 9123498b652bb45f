"""The checkpoints of a run: saving, listing, loading the newest valid one, and retention."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

from regraft.errors import Damaged, NotFound
from regraft.store import manifest as manifests
from regraft.store.bounded_json import parse_json
from regraft.store.manifest import MANIFEST, Manifest
from regraft.store.objects import Body, ObjectStore, Stat, checked
from regraft.store.schemas import StoredCheckpoint, StoredState, check_types

OPTIMIZER = "optimizer.safetensors"
"""The file of a checkpoint that only further steps need."""
STATE = "state.json"
_FOLDER = re.compile(r"(\d{8,})-([0-9a-f]{8})")


@dataclass(frozen=True)
class Retention:
    """The checkpoints to keep: the `best` by `metric` (a key of `meta["metrics"]`), the `last`, and `protect`.

    With `last=1` there is no fallback if the newest one is damaged later; 2 is safer.
    """

    best: int = 1
    last: int = 1
    metric: str | None = None
    mode: Literal["min", "max"] = "max"
    protect: frozenset[str] = frozenset()
    """Ids of checkpoints (short ones or those of manifests) that are never deleted."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A committed checkpoint. `id` is the first eight digits of its manifest's id; `prefix` ends with a slash."""

    step: int
    id: str
    prefix: str
    run: str
    store: ObjectStore = field(repr=False, compare=False)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, read at first use. Raises Damaged if it is invalid or belongs to another run or step."""
        found = manifests.load(self.store, self.prefix)
        run, step, id = found.meta.get("run"), found.meta.get("step"), found.id[:8]
        if (run, step, id, found.kind) != (self.run, self.step, self.id, "checkpoint"):
            raise Damaged(
                f"it belongs to {found.kind} {id} of run {run!r}, step {step!r}",
                f"{self.store.url}/{self.prefix}{MANIFEST}",
            )
        check_types(found.meta, StoredCheckpoint, f"{self.store.url}/{self.prefix}{MANIFEST}")
        return found

    @property
    def meta(self) -> dict[str, Any]:
        """The `meta` given to `save`, with run and step."""
        return self.manifest.meta


class Checkpoints:
    """The checkpoints of one run, under `runs/<run>/checkpoints/` or under `<folder>/checkpoints/`."""

    def __init__(self, store: ObjectStore, run: str, folder: str | None = None) -> None:
        self.store = store
        self.run = run
        self._prefix = checked(f"{folder or f'runs/{run}'}/checkpoints") + "/"

    @classmethod
    def of_trial(cls, store: ObjectStore, search: str, trial: str) -> Self:
        """Return the checkpoints of a search's trial; their `run` is `<search>/<trial>`."""
        return cls(store, f"{search}/{trial}", f"searches/{search}/trials/{trial}")

    def save(self, step: int, files: Mapping[str, Body], meta: Mapping[str, Any]) -> SavedCheckpoint:
        """Commit `files` as the checkpoint after `step` optimizer steps; it is not listed before this returns."""
        id = uuid4().hex
        saved = SavedCheckpoint(step, id[:8], f"{self._prefix}{step:08d}-{id[:8]}/", self.run, self.store)
        meta = {**meta, "run": self.run, "step": step}
        manifests.commit_as(self.store, saved.prefix, files, Manifest("checkpoint", id, (), meta))
        return saved

    def listed(self) -> list[SavedCheckpoint]:
        """Return the committed checkpoints, oldest first: by step, then by time if a step was saved twice."""
        found = []
        for folder, stats in self._folders().items():
            match = _FOLDER.fullmatch(folder)
            committed = next((stat for stat in stats if stat.key.endswith(f"/{folder}/{MANIFEST}")), None)
            if match and committed:
                saved = SavedCheckpoint(int(match[1]), match[2], f"{self._prefix}{folder}/", self.run, self.store)
                found.append((saved.step, committed.modified, saved.id, saved))
        return [saved for *_, saved in sorted(found, key=lambda item: item[:3])]

    def latest(self, into: Path, on_damaged: Callable[[Damaged], None]) -> tuple[SavedCheckpoint, Path] | None:
        """Return the newest checkpoint whose files all verify, fetched to a folder below `into`; None without one.

        Checkpoints without what further steps would need are passed over (see `drop_optimizer`).
        `on_damaged` is called for each damaged checkpoint that is passed over, and may raise. A store that does not
        answer is an error, never a reason to fall back to an older checkpoint.
        """
        for saved in reversed(self.listed()):
            try:
                if saved.meta.get("resumable", True):
                    return saved, self.open(saved, into)
            except NotFound:
                continue  # deleted by another process since it was listed
            except Damaged as error:
                if self.store.exists(saved.prefix + MANIFEST):
                    on_damaged(error)
        return None

    def open(self, saved: SavedCheckpoint, into: Path) -> Path:
        """Fetch and verify `saved` into its own folder below `into`; return that folder."""
        path = into / saved.prefix.removesuffix("/").rpartition("/")[2]
        _ = saved.manifest  # raises Damaged for another step's manifest before anything is fetched
        manifests.fetch_verified(self.store, saved.prefix, path)
        return path

    def valid(self) -> list[SavedCheckpoint]:
        """Return the committed checkpoints whose manifest is valid, oldest first."""
        return [saved for saved in self.listed() if _is_valid(saved)]

    def drop_optimizer(self, saved: SavedCheckpoint) -> int:
        """Delete a checkpoint's optimizer state, for a run that takes no further step; return the freed bytes.

        Everything else of the checkpoint stays committed and verifies as before. Unless the run was finished there,
        it is marked as not resumable.
        """
        manifest = saved.manifest
        size = sum(entry.size for entry in manifest.files if entry.name == OPTIMIZER)
        if size:
            state = read_state(
                manifests.read_verified(self.store, saved.prefix, STATE, manifest), f"{self.store.url}/{saved.prefix}"
            )
            files = tuple(entry for entry in manifest.files if entry.name != OPTIMIZER)
            meta = {**manifest.meta, "resumable": bool(state.get("finished"))}
            # The manifest first: a crash then leaves a file that no manifest lists, and not a damaged checkpoint.
            self.store.put(saved.prefix + MANIFEST, replace(manifest, files=files, meta=meta).to_json())
        self.store.delete([saved.prefix + OPTIMIZER])
        return size

    def retain(self, policy: Retention) -> list[str]:
        """Delete the checkpoints that `policy` does not keep; return their prefixes.

        A checkpoint with a damaged manifest is neither counted nor deleted, so that it can be examined.
        """
        valid = self.valid()
        kept = {saved.prefix for saved in valid[-policy.last :]} if policy.last > 0 else set()
        kept |= {saved.prefix for saved in _best(valid, policy)}
        protected = {id[:8] for id in policy.protect}
        deleted = [saved.prefix for saved in valid if saved.prefix not in kept and saved.id not in protected]
        for prefix in deleted:
            remove(self.store, prefix)
        return deleted

    def collect(self, older_than_s: float) -> list[str]:
        """Delete uncommitted and partly deleted checkpoints that were not touched for `older_than_s` seconds.

        `older_than_s` must be longer than any upload takes. Returns the deleted prefixes.
        """
        before = self.store.now() - older_than_s
        deleted = []
        for folder, stats in self._folders().items():
            committed = any(stat.key.endswith(f"/{folder}/{MANIFEST}") for stat in stats)
            if not committed and max(stat.modified for stat in stats) < before:
                self.store.delete([stat.key for stat in stats])
                deleted.append(f"{self._prefix}{folder}/")
        return deleted

    def _folders(self) -> dict[str, list[Stat]]:
        folders: dict[str, list[Stat]] = defaultdict(list)
        for stat in self.store.list(self._prefix):
            folder, slash, _ = stat.key.removeprefix(self._prefix).partition("/")
            if slash:
                folders[folder].append(stat)
        return folders


def read_state(data: bytes | str, where: str) -> dict[str, Any]:
    """Return a checkpoint's state of the loop. Raises Damaged, naming what is wrong, for anything else."""
    try:
        state: dict[str, Any] = parse_json(data)
    except ValueError as error:
        raise Damaged(f"{STATE} cannot be read: {error}", where) from None
    check_types(state, StoredState, f"{where}{STATE}")
    return state


def remove(store: ObjectStore, prefix: str) -> None:
    """Delete the checkpoint under `prefix`, which ends with a slash."""
    # The manifest is deleted first: a crash then leaves garbage and not half a checkpoint.
    store.delete([prefix + MANIFEST])
    store.delete([stat.key for stat in store.list(prefix)])


def _is_valid(saved: SavedCheckpoint) -> bool:
    try:
        return bool(saved.manifest)
    except (Damaged, NotFound):
        return False


def _best(found: Iterable[SavedCheckpoint], policy: Retention) -> list[SavedCheckpoint]:
    if policy.metric is None or policy.best <= 0:
        return []
    return ranked(found, policy.metric, policy.mode)[: policy.best]


def ranked(found: Iterable[SavedCheckpoint], metric: str, mode: Literal["min", "max"]) -> list[SavedCheckpoint]:
    """Return the evaluated checkpoints of `found` (oldest first), best first; the earlier step first among equals.

    If a step was saved twice, the later copy counts: a run saves a step again after passing over a damaged copy.
    """
    latest = {saved.step: saved for saved in found}
    scored = [(score, saved) for saved in latest.values() if (score := _score(saved, metric)) is not None]
    sign = 1 if mode == "min" else -1
    return [saved for _, saved in sorted(scored, key=lambda item: (sign * item[0], item[1].step))]


def _score(saved: SavedCheckpoint, metric: str) -> float | None:
    metrics = saved.meta.get("metrics")
    value = metrics.get(metric) if isinstance(metrics, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
