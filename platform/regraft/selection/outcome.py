"""The outcome of a selection: the bases in order, and what the order rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SelectOutcome:
    """The ranking of bases for a task's rows, before any fine-tuning."""

    name: str
    """The selection's name."""
    task: str
    base: str
    """The first choice."""
    headline: str
    """The verdict as a sentence."""
    tied: list[str] = field(default_factory=list)
    """All bases that nothing tells from the first one, itself among them, the cheapest first."""
    bases: list[dict[str, Any]] = field(default_factory=list)
    """For each, in order: base, hash, place, rank, score (the mean of those by row), scores, depth, depths, behind,
    tied, leads, parameters, operations, trained_for, rows, kept, note, seconds."""
    probe: float = 0.0
    """The linear probe of each row at the base and depth that the other rows choose: baselines are compared with it."""
    baselines: list[dict[str, Any]] = field(default_factory=list)
    """For each dull baseline: name, score, ahead (by how much the first choice is ahead), beaten."""
    warning: str = ""
    """What the first choice does not beat; empty if it beats all."""
    depth: dict[str, Any] = field(default_factory=dict)
    """The depth that is proposed for the first choice: name, depth, blocks, sentence."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows of the sample, of the training side, and of the sides that chose nothing."""
    left_out: list[str] = field(default_factory=list)
    """Bases that could not be used, each with the reason."""
    kind: str = ""
    """What the labels are: classes, numbers or tags."""
    curve: dict[str, Any] = field(default_factory=dict)
    """The first choice's data curve where `--curve` was given: points, law, doubled, saved, sentences, depth, rows."""
    fingerprint: str = ""
    """The snapshot of the rows."""
    store: str = ""
    page: str = ""
    """Address of the page."""
    seconds: float = 0.0
    created: str = ""
    already: bool = False
    """Whether it was decided before this command."""

    def document(self) -> dict[str, Any]:
        """Return the outcome as `--json` prints it."""
        return asdict(self)
