"""A line of `regraft doctor`'s report, and the type of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report; `todo` says what to do and is empty when nothing is wrong."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    todo: str = ""


Check = Callable[[], Iterable[Finding]]
"""A function that checks one thing and yields its findings."""
