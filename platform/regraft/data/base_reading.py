"""What reading rows may ask of the base that is adapted: its tokenizer, and which rows it cannot read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from regraft.contracts import Row


@dataclass(frozen=True, slots=True)
class BaseReading:
    """The base, as far as rows depend on it."""

    processor: Callable[[], Any]
    """Returns its tokenizer, for a task that packs rows."""
    problem: Callable[[Row], str | None] | None = None
    """Returns why it cannot read a checked row, or None; None for a base that reads every row."""
