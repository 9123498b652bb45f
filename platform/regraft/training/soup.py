"""A soup: the average of a run's best checkpoints, kept only if it is better than each of them on evaluation rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from regraft.bases.delta import apply_delta
from regraft.bases.tensor_files import read_tensors
from regraft.contracts import Note, Record
from regraft.errors import Damaged
from regraft.store.checkpoints import SavedCheckpoint, ranked
from regraft.training.evaluate import evaluate, packed
from regraft.training.run import Run

Keep = Callable[[Run, Mapping[str, float], Sequence[int]], None]
"""Writes the model as it is now as a checkpoint, with its metrics and the steps of the checkpoints that it averages."""


@dataclass(frozen=True, eq=False)
class MeanDelta:
    """The mean of deltas, summed in float64; whole numbers are those of the first."""

    first: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    count: int = 1

    @classmethod
    def of(cls, delta: Mapping[str, Tensor]) -> Self:
        """Return the mean of one delta."""
        return cls(delta, {name: tensor.double() for name, tensor in delta.items() if tensor.is_floating_point()})

    def with_delta(self, delta: Mapping[str, Tensor]) -> MeanDelta:
        """Return the mean of one delta more."""
        sums = {name: total + delta[name].double() for name, total in self.sums.items()}
        return MeanDelta(self.first, sums, self.count + 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the mean in the types of the first delta."""
        means = {name: (total / self.count).to(self.first[name].dtype) for name, total in self.sums.items()}
        return {**self.first, **means}


def make_soup(run: Run, folder: Path, keep: Keep) -> None:
    """Average the best `training.soup` checkpoints of a finished run greedily; called on every rank.

    The best one is the first member; another joins where the average with it scores better on the evaluation rows
    (Wortsman et al., 2022). `keep` stores an average of several. `folder` is scratch space.
    """
    if run.spec.training.soup < 2 or not len(run.snapshot.eval):
        return
    members = _members(run, folder)
    if not members:
        return
    score = run.spec.task.score
    (first, files), before = members[0], float(members[0][0].meta["metrics"][score.name])
    mean, steps, best = MeanDelta.of(_delta(files)), [first.step], before
    found: tuple[dict[str, float], list[Record]] | None = None
    for saved, files in members[1:]:
        tried = mean.with_delta(_delta(files))
        measured = _measured(run, tried)
        if score.better(measured[0][score.name], best):
            mean, best, found = tried, measured[0][score.name], measured
            steps.append(saved.step)
            if run.eval_features is not None:
                run.eval_features.keep(soup_step(run))
    if found is None:
        run.harness.emit(Note(f"no soup: no average with another of {len(members)} checkpoints beats the best one"))
        return
    apply_delta(run.adapted, mean.tensors())
    run.state.best, run.state.best_correct = best, packed(found[1])
    keep(run, found[0], steps)
    shown = ", ".join(map(str, steps))
    run.harness.emit(Note(f"a soup of the checkpoints of steps {shown}: {score.name} {best:.4f} beside {before:.4f}"))


def soup_step(run: Run) -> int:
    """Return the step under which a soup is stored: the one after the last."""
    return run.state.step + 1


def _members(run: Run, folder: Path) -> list[tuple[SavedCheckpoint, Path]]:
    """Fetch the best checkpoints, best first, that the first rank finds intact; none where there is a soup already."""
    harness, checkpoints, score = run.harness, run.callbacks.checkpoints, run.spec.task.score
    found: list[tuple[SavedCheckpoint, Path]] = []
    known = ranked(checkpoints.valid(), score.name, score.mode) if harness.first else []
    for saved in () if any(saved.meta.get("soup") for saved in known) else known:
        if len(found) == run.spec.training.soup:
            break
        try:
            found.append((saved, checkpoints.open(saved, folder)))
        except Damaged:
            continue  # registration reports it
    ids = harness.from_first([saved.id for saved, _ in found])
    if harness.first:
        return found
    by_id = {saved.id: saved for saved in checkpoints.listed()}
    return [(by_id[one], checkpoints.open(by_id[one], folder)) for one in ids]


def _delta(files: Path) -> dict[str, Tensor]:
    return read_tensors(files / "delta.safetensors")


def _measured(run: Run, mean: MeanDelta) -> tuple[dict[str, float], list[Record]]:
    apply_delta(run.adapted, mean.tensors())
    size = max(32, run.spec.training.batch_size)
    with nullcontext() if run.eval_features is None else run.eval_features.watching():
        return evaluate(run.adapted, run.snapshot.eval, run.harness, size=size, autocast=run.accelerator.autocast())
