"""How a run continues: the newest checkpoint whose files verify, put back whole on every rank."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor

from regraft.bases.delta import apply_delta
from regraft.bases.locate import check_hash
from regraft.contracts import Note, Resumed
from regraft.errors import Damaged
from regraft.store.checkpoints import Saved
from regraft.training.job import State
from regraft.training.optimizer import restore_optimizer

if TYPE_CHECKING:
    from regraft.training.loop import Run

log = logging.getLogger(__name__)


def restore(run: Run) -> bool:
    """Read the newest whole checkpoint into the run; False when there is none.

    Rank 0 chooses and the others follow by id: two ranks that each looked for themselves could find different ones.
    """
    found = choose(run) if run.harness.first else None
    chosen = run.harness.from_first(found[0].id if found else None)
    if chosen is None:
        return False
    if found is None:
        saved = next(saved for saved in run.checkpoints.listed() if saved.id == chosen)
        found = saved, run.checkpoints.open(saved, run.folder / "resume")
    saved, folder = found
    check_hash(run.adapted.base, saved.meta["base"], f"checkpoint {saved.prefix} was made on that one")
    read(run, folder)
    run.harness.emit(Resumed(run.state.step, saved.prefix))
    return True


def choose(run: Run) -> tuple[Saved, Path] | None:
    """The newest checkpoint that verifies; damaged ones are named and passed over."""

    def refused(error: Damaged) -> None:
        log.warning("%s", error)
        run.harness.emit(Note(f"a damaged checkpoint is passed over: {error}"))

    return run.checkpoints.latest(run.folder / "resume", refused)


def read(run: Run, folder: Path) -> None:
    """A checkpoint's files into model, optimizer, loss terms and state."""
    run.state = State.read((folder / "state.json").read_bytes())
    apply_delta(run.adapted, load_file(folder / "delta.safetensors"))
    if run.state.finished and not (folder / "optimizer.safetensors").exists():
        return  # a trial's last one: nothing steps from it
    tensors = load_file(folder / "optimizer.safetensors")
    terms = {key.removeprefix("terms."): value for key, value in tensors.items() if is_term(key)}
    if terms or len(run.module.terms):
        run.module.terms.load_state_dict(terms)
    moments: dict[str, Tensor] = {key: value for key, value in tensors.items() if not is_term(key)}
    restore_optimizer(run.optimizer, run.names, moments)
    if run.accelerator.scaler is not None and run.state.scaler:
        run.accelerator.scaler.load_state_dict(run.state.scaler)


def is_term(key: str) -> bool:
    """Whether an entry is a value of a loss term, not an optimizer's moment."""
    return key.startswith("terms.") and "|" not in key
