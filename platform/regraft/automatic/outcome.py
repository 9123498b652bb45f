"""The outcome of `regraft auto`: the registered model, and everything that led to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class AutoOutcome:
    """A model that was made of data alone."""

    model: str
    version: str
    run: str
    """The name of the automatic run in the store."""
    store: str
    task: str
    base: str
    method: dict[str, Any]
    score: str
    """The name of the deciding metric."""
    metrics: dict[str, float]
    """On the evaluation rows, which chose."""
    test: dict[str, Any] | None
    """On rows that chose nothing."""
    baselines: dict[str, Any]
    verdicts: str
    """The score beside its controls, as a sentence."""
    comparison: dict[str, Any] | None
    """The controls at equal budget, with paired intervals; None where they were not measured."""
    spec: str
    """Address of the spec that repeats the model."""
    page: str
    look: list[dict[str, str]] = field(default_factory=list)
    """The conclusions about the data: subject, finding, evidence."""
    bases: list[dict[str, Any]] = field(default_factory=list)
    """The bases that were there: reference, found, why, chosen."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    """Trials with a result, the best first."""
    left_out: list[dict[str, str]] = field(default_factory=list)
    """Methods that were not tried, and why."""
    budget: dict[str, float] = field(default_factory=dict)
    """Seconds: asked, choice, search, end."""
    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    advice: str = ""
    seconds: float = 0.0
    created: str = ""
    already: bool = False
    """Whether it was finished before this command."""

    def document(self) -> dict[str, Any]:
        """Return the outcome as `--json` prints it."""
        return asdict(self)
