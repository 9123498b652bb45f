"""Labels that are probably one, written in two ways: `1` and `1.0`, `True` and `true`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LEADING_ZERO = re.compile(r"[+-]?0\d")
"""A code such as 007, which is no number."""
_SHOWN = 20


def look_alikes(labels: Iterable[str]) -> str | None:
    """Return a warning about two labels that differ only in capitals, spaces or the form of a number, or None."""
    found: dict[object, str] = {}
    for label in labels:
        other = found.setdefault(_same_key(label), label)
        if other != label:
            return f"{other!r} and {label!r} are two labels: if they are one, write it alike in all rows"
    return None


def labels_text(labels: Iterable[str]) -> str:
    """Return the first labels as a list for a message, with the number of the others."""
    known = list(labels)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(map(repr, known[:_SHOWN])) + more


def alike(label: str, known: Iterable[str]) -> str | None:
    """Return the known label that is probably meant by another, or None."""
    key = _same_key(label)
    return next((other for other in known if _same_key(other) == key), None)


def _same_key(label: str) -> object:
    """Return a key that is equal for labels which differ only in capitals, spaces or the form of a number."""
    text = " ".join(label.split()).casefold()
    try:
        return float(text) if text[:1] in "+-.0123456789" and not _LEADING_ZERO.match(text) else text
    except ValueError:
        return text
