"""Marked JSON lines in a job's log: how a command in a job on a cluster reports to the client that submitted it.

A job's log mixes the output of all its processes, so each of these lines begins with a mark and stands alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from regraft.store.redact import redacted

if TYPE_CHECKING:
    from regraft.contracts import Event

MARK = "@regraft "
SWITCH = "REGRAFT_EVENTS"


def enabled() -> bool:
    """Return whether this process runs for a client that reads its log."""
    return os.environ.get(SWITCH) == "1"


def write(kind: str, body: Mapping[str, Any]) -> None:
    """Write one line to standard output: `kind` is progress, reply or error."""
    text = json.dumps({"kind": kind, "body": body}, default=_plain)
    sys.stdout.write(f"\n{MARK}{redacted(text)}\n")  # a line of its own, even after a bar that has none
    sys.stdout.flush()


def progress(event: Event) -> None:
    """Write a progress event."""
    write("progress", event.document())


def parse(line: str) -> tuple[str, dict[str, Any]] | None:
    """Return (kind, body) of a marked line; None for any other line, and for one that was cut."""
    if not line.startswith(MARK):
        return None
    try:
        document = json.loads(line.removeprefix(MARK))
        kind, body = document["kind"], document["body"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (str(kind), body) if isinstance(body, dict) else None


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch as Python's, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)
