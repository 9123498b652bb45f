"""The outcome of an adaptation: what was decided, and what it rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class AdaptOutcome:
    """The decision about a model and another domain."""

    model: str
    version: str
    """The version that should answer for target rows: an adapted one, or the source-only one."""
    source: str
    """`name@version` of the source-only model."""
    adapted: bool
    chosen: str
    """The name of the chosen candidate."""
    headline: str
    shift: str
    """What differs between the domains, as a sentence."""
    why: str
    risk: str
    """What the decision cannot know, in plain words."""
    run: str
    """The adaptation's name."""
    store: str
    candidates: list[dict[str, Any]] = field(default_factory=list)
    """For each: name, source_score, effective_classes, validators, intervals, verdict, chosen, run, seconds."""
    diagnosis: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] | None = None
    """The comparison on labelled target rows, where any were given."""
    rows: dict[str, int] = field(default_factory=dict)
    """The number of rows of each side."""
    page: str = ""
    """Address of adapt.html."""
    seconds: float = 0.0
    created: str = ""
    already: bool = False
    """Whether it was decided before this command."""

    def document(self) -> dict[str, Any]:
        """Return the outcome as `--json` prints it."""
        return asdict(self)
