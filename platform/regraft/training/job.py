"""The job of a run: everything that a rank needs to train, as plain data that crosses processes and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from regraft.contracts import Score
from regraft.errors import Damaged
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import read_state


@dataclass(frozen=True, slots=True)
class Job:
    """One run, resolved: its spec, the base's hash, and the data's fingerprint."""

    spec: dict[str, Any]
    run: str
    base_hash: str
    fingerprint: str
    labels: tuple[str, ...]
    threads: int | None = None
    """CPU threads per rank; the last bits of the result depend on them, so the run records them."""
    began: float = 0.0
    """Unix time at which the command began, from which a budget counts; 0 where nobody says."""
    spent: float = 0.0
    """Seconds of the commands before this one."""

    def resolved(self) -> RunSpec:
        """Return the spec as an object, and find the user's plugins in this process."""
        return RunSpec.resolve(self.spec)


@dataclass(slots=True)
class RunState:
    """The loop's state between steps: everything that a checkpoint holds besides tensors."""

    step: int = 0
    format: int = 1
    best: float | None = None
    best_correct: str = ""
    stale: int = 0
    """Evaluations since the best one, or since the phase began."""
    phase: int = 0
    """The phase that the step belongs to that was taken last, counted from 0."""
    phase_began: int = 0
    """The step after which that phase began."""
    finished: bool = False
    seconds: float = 0.0
    """Training time of all attempts."""
    scaler: dict[str, float] = field(default_factory=dict)
    """Loss scaling of fp16."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl so far."""

    def judge(self, metrics: Mapping[str, float], score: Score, *, patience: int | None, last: bool) -> bool:
        """Update `best`, `stale` and `finished` with an evaluation, and return whether it is the best so far.

        The run is finished when no step follows (`last`), or after `patience` evaluations without improvement.
        """
        if best := score.better(metrics[score.name], self.best):
            self.best, self.stale = metrics[score.name], 0
        else:
            self.stale += 1
        self.finished = last or (patience is not None and self.stale >= patience)
        return best

    def document(self) -> dict[str, Any]:
        """Return the state as JSON-able data."""
        return asdict(self)

    @classmethod
    def read(cls, text: str | bytes) -> RunState:
        """Read a checkpoint's state.json; raises Damaged for another format."""
        document = read_state(text, "checkpoint/")
        if document.get("format") != cls().format:
            raise Damaged(f"state.json has format {document.get('format')!r}; this regraft reads 1", where="checkpoint")
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})
