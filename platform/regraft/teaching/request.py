"""What a teaching is asked for; imports nothing heavy, so that the command line can use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft.errors import RequestError

MAX_LOSS = 15.0
"""Points of recall that a class of before may lose by default."""
_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class TeachRequest:
    """A model, the name of its new class, and where the examples are."""

    model: str
    """`name`, `name@version` or `name@alias`."""
    label: str
    """The new class."""
    rows: str
    """File, folder, glob or s3:// URL of its examples."""
    evaluation: str | None = None
    """Labelled rows to calibrate and measure on, in place of those that the version keeps."""
    max_loss: float = MAX_LOSS
    """Points of recall that a class of before may lose."""
    promote: str | None = None
    """An alias that then means the new version."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The task's columns with their names in the files; columns not listed keep the names of training."""
    format: Any = None
    """The source that reads the examples, as in a spec; None for that of their names."""
    plugins: Sequence[str | Path] = ()
    base: str | None = None
    """The place of the model's base if it is not where the version says."""
    device: str = "auto"

    def check(self) -> None:
        """Raise RequestError for a name or a limit that nothing can have."""
        if not self.label or self.label != " ".join(self.label.split()) or not self.label.isprintable():
            allowed = "allowed is a name on one line, with single blanks and none around it"
            raise RequestError(f"{self.label!r} is written; {allowed}", "class")
        if len(self.label) > _LONGEST:
            raise RequestError(f"a name of {len(self.label)} characters is written; allowed are {_LONGEST}", "class")
        if not 0 <= self.max_loss <= 100:
            raise RequestError(f"{self.max_loss:g} is written; allowed are 0 to 100 points of recall", "max-loss")
