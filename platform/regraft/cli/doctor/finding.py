"""One line of `regraft doctor`'s report, and what makes some."""

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
