"""What a search is made of: a trial, what a worker is told, what it tells, and what is kept of each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, Self

from regraft.spec import RunSpec

Status = Literal["waiting", "running", "finished", "stopped", "failed"]
"""waiting: to be run, or run again after its worker died. stopped: ended by the scheduler before its last step."""


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


class Desk(Protocol):
    """Where a worker hands in what its trials give, and hears what to do; calls wait for the answer."""

    def report(self, trial: str, report: Report) -> bool:
        """After an evaluation: whether the trial goes on."""
        ...

    def room(self, trial: str, count: int) -> bool:
        """Before a checkpoint of `count` bytes is written: whether there is room for it within the search's quota,
        after what may go was deleted; False: the trial goes on without writing it."""
        ...

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """A checkpoint of `count` bytes is committed under `prefix`."""
        ...

    def ended(self, trial: str, end: End) -> None:
        """The trial is over."""
        ...

    def say(self, event: str, **fields: Any) -> None:
        """Progress that belongs to no trial: what is kept of the frozen part (`trunk`), a `note`.

        `shared` with rows, computed, reused, bytes, where, why, saved_s, together goes into the search's record, the
        numbers added up over workers.
        """
        ...


@dataclass(slots=True)
class TrialRecord:
    """All that is kept of one trial: a line of `trials.jsonl`, from which a search continues and its report is made."""

    id: str
    number: int
    overrides: dict[str, Any]
    status: Status = "waiting"
    reports: list[dict[str, Any]] = field(default_factory=list)
    """Each `Report`, in order."""
    best: dict[str, float] | None = None
    """Metrics of its best evaluation."""
    seconds: float = 0.0
    checkpoint: str | None = None
    error: str | None = None
    depth: int | None = None
    blocks: int | None = None
    trainable: int = 0
    total: int = 0
    together: int = 1
    attempts: int = 0
    """How often it was begun."""
    registered: str | None = None
    """`name@version`, where it was registered."""
    drawn: dict[str, Any] = field(default_factory=dict)
    """A value for every field of the space, also for those that do not apply to this trial's method."""
    correct: str = ""
    """Which evaluation rows its best checkpoint had right."""

    def document(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """From a line of `trials.jsonl`."""
        return cls(**document)


@dataclass(slots=True)
class SearchRecord:
    """What a search says of itself: `search.json`."""

    name: str
    model: str
    score: dict[str, str]
    """{name, mode} of the deciding metric."""
    space: dict[str, Any]
    """As written in the spec."""
    sampler: str
    scheduler: str
    store: str
    state: Literal["running", "finished", "failed", "interrupted"] = "running"
    trials: int | None = None
    """How many were asked for."""
    created: str = ""
    seconds: float = 0.0
    """Wall time over all attempts."""
    winner: str | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    """What trials shared and what it saved: rows, computed, reused, bytes, where, why, saved_s, together."""
    base: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    base_hash: str = ""
    fingerprint: str = ""
    baselines: dict[str, Any] = field(default_factory=dict)
    """Metrics of the honest baselines, by name."""
    baseline_correct: str = ""
    """Which evaluation rows the nearest centroid had right."""

    def document(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)


def best_first(records: Sequence[TrialRecord], score: Mapping[str, str]) -> list[TrialRecord]:
    """Those with a result, the best first; of equals the earlier trial."""
    name, sign = score["name"], -1.0 if score["mode"] == "max" else 1.0
    scored = [record for record in records if record.best and record.best.get(name) is not None]
    return sorted(scored, key=lambda record: (sign * record.best[name] if record.best else 0.0, record.number))
