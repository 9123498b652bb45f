"""TODO"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from regraft.spec.run import RunSpec


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the space: a spec is that of the search with `overrides` applied, complete and valid by itself."""

    number: int
    overrides: Mapping[str, Any]

    @property
    def id(self) -> str:
        """`t0007`: its name in records, folders and reports."""
        return f"t{self.number:04d}"

    def spec(self, base: RunSpec) -> RunSpec:
        """The trial's own spec; SpecError when the point is not a valid one."""
        return base.override(self.overrides)


@dataclass(frozen=True, slots=True)
class SearchJob:
    """What a worker needs to run any trial of a search, as plain data that crosses processes and machines."""

    spec: Mapping[str, Any]
    """The resolved spec without overrides."""
    search: str
    """The search's name: `<store>/searches/<search>/` holds its documents and its trials' checkpoints."""
    base_hash: str
    fingerprint: str
    labels: tuple[str, ...]
    depths: tuple[int | str, ...] = ()
    """Every depth that the space may freeze: one pass over the rows gives what all of them need."""
    threads: int | None = None
    """CPU threads per worker."""


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation of a trial."""

    step: int
    epoch: float
    metrics: Mapping[str, float]
    seconds: float
    """Training and evaluation time of the trial so far; of trials that train together, its share."""


@dataclass(frozen=True, slots=True)
class End:
    """How a trial ended."""

    status: Literal["finished", "stopped", "failed"]
    seconds: float
    checkpoint: str | None = None
    """Prefix in the store of its best checkpoint."""
    error: str | None = None
    """In one line, for a failed one."""
    depth: int | None = None
    """How many blocks stood still."""
    blocks: int | None = None
    """How many there are."""
    trainable: int = 0
    """Parameters that moved."""
    total: int = 0
    together: int = 1
    """With how many trials it trained in one computation, itself counted."""
    correct: str = ""
    """Which evaluation rows its best checkpoint had right, as `training.evaluate.packed` makes it."""


class Coordinator(Protocol):
    """Where a worker hands in what its trials give, and hears what to do; calls wait for the answer."""

    def report(self, trial: str, report: Report) -> bool:
        """After an evaluation: whether the trial goes on."""
        ...

    def reserve(self, trial: str, count: int) -> bool:
        """Before a checkpoint of `count` bytes is written: whether there is reserve for it within the search's quota,
        after what may go was deleted; False: the trial goes on without writing it."""
        ...

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """A checkpoint of `count` bytes is committed under `prefix`."""
        ...

    def ended(self, trial: str, end: End) -> None:
        """The trial is over."""
        ...

    def emit(self, event: str, **fields: Any) -> None:
        """Progress that belongs to no trial: what is kept of the frozen part (`trunk`), a `note`.

        `shared` with rows, computed, reused, bytes, where, why, saved_s, together goes into the search's record, the
        numbers added up over workers.
        """
        ...
