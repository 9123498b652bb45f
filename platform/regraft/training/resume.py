"""The checkpoint that a run continues from: the newest one whose files verify, the same on every rank."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from regraft.contracts import Note
from regraft.errors import Damaged, NotFound
from regraft.store.checkpoints import STATE, Checkpoints, SavedCheckpoint
from regraft.store.manifest import read_verified
from regraft.training.harness import Harness
from regraft.training.job import RunState

log = logging.getLogger(__name__)


def newest_checkpoint(checkpoints: Checkpoints, harness: Harness, folder: Path) -> tuple[SavedCheckpoint, Path] | None:
    """Fetch the newest valid checkpoint into `folder`; return it and the folder of its files, None if there is none.

    Rank 0 chooses and the others follow by id: two ranks that each looked for themselves could find different ones. A
    note names damaged checkpoints, which are skipped.
    """

    def skipped(error: Damaged) -> None:
        log.warning("%s", error)
        harness.emit(Note(f"a damaged checkpoint is skipped: {error}"))

    found = checkpoints.latest(folder, skipped) if harness.first else None
    chosen = harness.from_first(found[0].id if found else None)
    if chosen is None or found is not None:
        return found
    saved = next(saved for saved in checkpoints.listed() if saved.id == chosen)
    return saved, checkpoints.open(saved, folder)


def newest_state(checkpoints: Checkpoints) -> RunState:
    """Return the state of the newest checkpoint whose state can be read; a new state without one.

    Nothing else of it is fetched: its other files may be damaged.
    """
    for saved in reversed(checkpoints.listed()):
        with suppress(Damaged, NotFound):
            if saved.meta.get("resumable", True):
                return RunState.read(read_verified(checkpoints.store, saved.prefix, STATE, saved.manifest))
    return RunState()
