"""The checkpoint that a run continues from: the newest one whose files verify, the same on every rank."""

from __future__ import annotations

import logging
from pathlib import Path

from regraft.contracts import Note
from regraft.errors import Damaged
from regraft.store.checkpoints import Checkpoints, SavedCheckpoint
from regraft.training.harness import Harness

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
