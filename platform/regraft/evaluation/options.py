"""What may be asked of an evaluation; light, so that the command line can import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EvaluationOptions:
    """What may be asked of an evaluation beside a model and its rows; the defaults are the command's."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """The task's columns, each with its name in the files; what is not named is as it was in training."""
    format: Mapping[str, Any] | str | None = None
    """The source that reads the files, as a spec would write it; None as in training, `auto` by the file's suffix."""
    bad_rows: str = "fail"
    """`fail`, or `skip` to leave out rows that cannot be used."""
    resamples: int = 1000
    """Bootstrap resamples; 0 for no intervals."""
    seconds: float = 20.0
    """How long they may take."""
    worst: int = 12
    """Rows shown of those that went worst."""
    against: str | None = None
    """Another model, `name[@alias|@version]`, on the same rows."""
