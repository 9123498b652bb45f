"""Messages between driver and workers of a search: jobs, trials, reports, ends, and the coordinator's interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from regraft.contracts import Event
from regraft.spec.run import RunSpec


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the space. Its spec is the search's with `overrides` applied, which is complete and valid."""

    number: int
    overrides: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The trial's name in records, folders and reports, such as `t0007`."""
        return f"t{self.number:04d}"

    def spec(self, base: RunSpec) -> RunSpec:
        """Apply the overrides to the search's spec. Raises SpecError for an invalid point."""
        return base.override(self.overrides)


@dataclass(frozen=True, slots=True)
class JobBase:
    """One of several bases of a search."""

    reference: str
    """As trials name it."""
    hash: str
    depths: tuple[int | str, ...] = ()
    """Every depth that the space may freeze of it."""


@dataclass(frozen=True, slots=True)
class SearchJob:
    """Everything a worker needs to run any trial of a search, as plain data that crosses processes and machines."""

    spec: Mapping[str, Any]
    """The resolved spec without overrides."""
    search: str
    """The search's name: `<store>/searches/<search>/` holds its documents and its trials' checkpoints."""
    base_hash: str
    fingerprint: str
    labels: tuple[str, ...]
    depths: tuple[int | str, ...] = ()
    """Every depth that the space may freeze: one pass over the rows computes the outputs for all of them."""
    threads: int | None = None
    """CPU threads per worker."""
    bases: tuple[JobBase, ...] = ()
    """Every base of a space that varies it; empty where all trials have the spec's own."""
    sharing: int = 1
    """Number of bases that share a worker's limit of kept outputs."""

    def apart(self) -> tuple[SearchJob, ...]:
        """Return a job for each base, as that of a search of this base alone."""
        return tuple(map(self._at, self.bases)) or (self,)

    def _at(self, base: JobBase) -> SearchJob:
        return replace(
            self,
            spec={**self.spec, "base": base.reference},
            base_hash=base.hash,
            depths=base.depths,
            bases=(),
            sharing=len(self.bases),
        )

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> SearchJob:
        """Read a job from plain data, whose sequences may be lists."""
        bases = (JobBase(**{**base, "depths": tuple(base["depths"])}) for base in document.get("bases", ()))
        sequences = {name: tuple(document[name]) for name in ("labels", "depths")}
        return cls(**{**document, **sequences, "bases": tuple(bases)})


@dataclass(frozen=True, slots=True)
class Report:
    """One evaluation of a trial."""

    step: int
    epoch: float
    metrics: Mapping[str, float]
    seconds: float
    """Training and evaluation time of the trial so far; for trials that train together, the trial's share."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a trial."""

    status: Literal["finished", "stopped", "failed"]
    seconds: float
    checkpoint: str | None = None
    """Prefix in the store of its best checkpoint."""
    error: str | None = None
    """The error in one line, for a failed trial."""
    depth: int | None = None
    """Number of frozen blocks."""
    blocks: int | None = None
    """Number of blocks of the base."""
    trainable: int = 0
    """Number of parameters that were trained."""
    total: int = 0
    together: int = 1
    """Number of trials that were trained in one computation, this one included."""
    correct: str = ""
    """The evaluation rows that its best checkpoint predicts correctly, encoded by `training.evaluate.packed`."""


class Coordinator(Protocol):
    """The interface through which workers report and ask. Calls wait for the answer."""

    def report(self, trial: str, report: Report) -> bool:
        """Record an evaluation and return whether the trial continues."""
        ...

    def reserve(self, trial: str, count: int) -> bool:
        """Reserve `count` bytes for a checkpoint, after deleting what may go.

        Returns False if the search's quota has no room; the trial then continues without writing the checkpoint.
        """
        ...

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """Record a checkpoint of `count` bytes that is committed under `prefix`."""
        ...

    def ended(self, trial: str, end: End) -> None:
        """Record how the trial ended."""
        ...

    def emit(self, event: Event) -> None:
        """Emit a progress event that belongs to no trial.

        The numbers of a `TrunkShared` are added up over workers in the search's record; `BaselinesMeasured` goes there
        too.
        """
        ...
