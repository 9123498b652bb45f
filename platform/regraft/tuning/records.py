"""What a search is made of: a trial, what a worker is told, what it tells, and what is kept of each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from regraft.errors import Diverged, RequestError

Status = Literal["waiting", "running", "finished", "stopped", "failed"]
"""waiting: to be run, or run again after its worker died. stopped: ended by the scheduler before its last step."""


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


def error_line(error: BaseException) -> str:
    """Return an error as one line of at most about 500 characters, for a trial's record."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, RequestError | Diverged) else f"{type(error).__name__}: {text}"
