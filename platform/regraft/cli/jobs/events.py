"""How a command in a job on a cluster tells the one that submitted it what happens: marked JSON lines in the job's log.

A job's log mixes everything that its processes say, so each line of ours begins with a mark and stands alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from regraft.store.redact import redacted

MARK = "@regraft "
SWITCH = "REGRAFT_EVENTS"


def wanted() -> bool:
    """Whether this process runs for a client that reads its log."""
    return os.environ.get(SWITCH) == "1"


def tell(kind: str, body: Mapping[str, Any]) -> None:
    """Write one line: `kind` is progress, reply or error."""
    text = json.dumps({"kind": kind, "body": body}, default=_plain)
    sys.stdout.write(f"\n{MARK}{redacted(text)}\n")  # a line of its own, even after a bar that has none
    sys.stdout.flush()


def progress(event: Mapping[str, Any]) -> None:
    """A sink for progress events."""
    tell("progress", event)


def read(line: str) -> tuple[str, dict[str, Any]] | None:
    """(kind, body) of a line of ours; None for any other line, and for one that was cut."""
    if not line.startswith(MARK):
        return None
    try:
        told = json.loads(line.removeprefix(MARK))
        kind, body = told["kind"], told["body"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (str(kind), body) if isinstance(body, dict) else None


def _plain(value: Any) -> Any:
    """numpy's and torch's numbers as Python's, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)
