"""The stored records of a search and its trials: the contents of `search.json` and of a line of `trials.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self

from regraft.errors import Diverged, RequestError
from regraft.spec.search_bases import BASE, base_of_trial

Status = Literal["waiting", "running", "finished", "stopped", "failed"]
"""waiting: to be run, again if its worker died. stopped: ended by the scheduler before its last step."""
OVER = ("finished", "stopped", "failed")
"""States of a trial that does not run again."""


@dataclass(slots=True)
class TrialRecord:
    """One trial as a line of `trials.jsonl`, from which a search continues and its report is made."""

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
    """How often it was started."""
    registered: str | None = None
    """`name@version` for a registered trial."""
    drawn: dict[str, Any] = field(default_factory=dict)
    """A value for every field of the space, including those that do not apply to this trial's method."""
    correct: str = ""
    """The evaluation rows that its best checkpoint predicts correctly."""
    step: int = 0
    """Step of the checkpoint from which it continues, of a trial that was under way when the search was stopped."""

    def document(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return asdict(self)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Read a line of `trials.jsonl`."""
        known = {one.name for one in fields(cls)}  # a later edition may write more
        return cls(**{name: value for name, value in document.items() if name in known})


@dataclass(slots=True)
class SearchRecord:
    """A search as stored in `search.json`."""

    name: str
    model: str
    score: dict[str, str]
    """{name, mode} of the deciding metric."""
    space: dict[str, Any]
    """As written in the spec."""
    sampler: str
    scheduler: str
    store: str
    state: Literal["running", "finished", "failed", "stopped", "interrupted"] = "running"
    """stopped: by a signal, the trials under way have checkpoints. interrupted: the same, as 0.1.0 wrote it."""
    trials: int | None = None
    """Number of trials in the spec."""
    created: str = ""
    seconds: float = 0.0
    """Wall time over all attempts."""
    winner: str | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    """Counts of shared outputs and savings: rows, computed, reused, bytes, where, why, saved_s, together."""
    base: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    base_hash: str = ""
    fingerprint: str = ""
    baselines: dict[str, Any] = field(default_factory=dict)
    """Metrics of the baselines, by name."""
    baseline_correct: str = ""
    """The evaluation rows that the nearest centroid predicts correctly."""
    majority_correct: str = ""
    """The evaluation rows that have the most frequent training label."""
    skipped: dict[str, Any] = field(default_factory=dict)
    """Bad rows that were left out, as in a run's document."""
    overlap: int | None = None
    """Number of evaluation rows that are training rows too; None where it was not counted."""
    auto: list[str] | None = None
    """The training keys that are chosen for each trial; None for a search begun before `auto` existed."""
    test: dict[str, Any] = field(default_factory=dict)
    """The result on the test rows of each trial that was registered, by its id."""
    test_overlap: dict[str, int] | None = None
    """Number of test rows that are rows of train, and of eval; None without test rows."""
    bases: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Each base of a space that varies it, by its reference: its `hash`, and what was measured of it unchanged
    (`baselines`, `baseline_correct`). `base` and `base_hash` are then the first of them."""

    def document(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        newer = ("test", "test_overlap", "bases")
        return {name: value for name, value in asdict(self).items() if not (name in newer and not value)}

    def seen_from(self, trial: TrialRecord) -> SearchRecord:
        """Return the record with base and baselines of a trial's base; itself where all trials have one base."""
        reference = base_of_trial(trial.overrides)
        if (known := self.bases.get(reference)) is None:
            return self
        return replace(
            self,
            base=reference,
            base_hash=known["hash"],
            baselines={**self.baselines, **known.get("baselines", {})},
            baseline_correct=known.get("baseline_correct", ""),
        )

    def move_bases(self, references: Sequence[str], trials: Sequence[TrialRecord]) -> bool:
        """Name several bases as they are found now, in the order of the space; return whether a place has changed.

        A search has one name wherever its spec lies, so that another checkout continues it: there, a base that was
        written as a relative path has another place. Raises RequestError where the record has other bases.
        """
        draw = self.space.get(BASE, {})
        recorded = draw.get("grid") or draw.get("choice") or []
        if len(recorded) != len(references) or self.bases.keys() != set(recorded):
            counts = f"{len(self.bases)} bases are recorded and {len(references)} are written"
            raise RequestError(f"search {self.name}: {counts}; --fresh starts another search", where="search.space")
        places = dict(zip(recorded, references, strict=True))
        if all(before == now for before, now in places.items()):
            return False
        self.bases = {places[before]: known for before, known in self.bases.items()}
        self.base = references[0]
        self.space = {
            **self.space,
            BASE: {key: list(references) if draw[key] == recorded else draw[key] for key in draw},
        }
        for trial in trials:
            for point in (trial.overrides, trial.drawn):
                if point.get(BASE) in places:
                    point[BASE] = places[point[BASE]]
        return True

    def add_baselines(self, found: Mapping[str, Mapping[str, float]], correct: str, base: str | None = None) -> None:
        """Record baselines, of one of several bases if it is named; the majority is the same for all."""
        if (known := self.bases.get(base or "")) is None:
            self.baselines |= found
            self.baseline_correct = correct or self.baseline_correct
            return
        common = {name: dict(metrics) for name, metrics in found.items() if name == "majority"}
        self.baselines |= common
        known["baselines"] = known.get("baselines", {}) | {
            name: dict(metrics) for name, metrics in found.items() if name not in common
        }
        known["baseline_correct"] = correct or known.get("baseline_correct", "")


def best_first(records: Sequence[TrialRecord], score: Mapping[str, str]) -> list[TrialRecord]:
    """Return the records with a result, the best first.

    Of equal results those of trials that were stopped early come last; else they stay in the order of their trials.
    """
    name, sign = score["name"], -1.0 if score["mode"] == "max" else 1.0
    scored = [
        (sign * value, record.status == "stopped", record.number, record)
        for record in records
        if record.best and (value := record.best.get(name)) is not None
    ]
    return [record for *_, record in sorted(scored, key=lambda one: one[:3])]


def error_line(error: BaseException) -> str:
    """Return an error as one line of at most about 500 characters, for a trial's record."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, RequestError | Diverged) else f"{type(error).__name__}: {text}"
