"""What the trials of a search shared, and what that saved, in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from regraft.evaluation.figures import span
from regraft.search.trials import SearchRecord, TrialRecord

_TOLD = ("rows", "computed", "reused", "bytes", "where", "why", "saved_s", "together")


def size(count: float) -> str:
    """Bytes for people: `23.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def shared_words(record: SearchRecord, trials: Sequence[TrialRecord]) -> str:
    """One paragraph; it says so where nothing was shared."""
    shared = record.shared
    parts = []
    if rows := _number(shared, "rows"):
        computed, reused = _number(shared, "computed"), _number(shared, "reused")
        told = f"What the frozen part of the base gives for each of {rows:,.0f} rows was kept for all trials"
        if computed is not None or reused:
            told += f": computed for {computed or 0:,.0f} of them"
            told += f", found again from earlier runs for {reused:,.0f}" if reused else ""
        kept = _number(shared, "bytes")
        where = shared.get("where")
        told += f"; {size(kept)}" if kept else ""
        told += f" {'in ' if where == 'memory' else 'on '}{where}" if isinstance(where, str) and kept else ""
        parts.append(f"{told}.")
    if saved := _number(shared, "saved_s"):
        spent = sum(trial.seconds for trial in trials)
        parts.append(f"That saved {span(saved)} of computing; the trials took {span(spent)}.")
    most = max([int(_number(shared, "together") or 1), *(trial.together for trial in trials)])
    packed = sum(trial.together > 1 for trial in trials)
    if most > 1:
        number = f"{packed:,} trials" if packed else "Trials"
        parts.append(f"{number} trained together with others in one computation, up to {most} at a time.")
    return " ".join(parts) or "Nothing was shared: each trial computed all of its own."


def shared_facts(record: SearchRecord) -> list[tuple[str, str, bool]]:
    """What the paragraph leaves out: why it was kept there, and whatever else the search says."""
    facts = [("why", record.shared["why"], False)] if record.shared.get("why") else []
    where = record.shared.get("where")
    if where and not isinstance(where, str):
        facts.append(("where", where, False))
    facts += [(name.replace("_", " "), told, False) for name, told in record.shared.items() if name not in _TOLD]
    return [(name, told if isinstance(told, str) else _json(told), code) for name, told, code in facts]


def _json(told: Any) -> str:
    return json.dumps(told, default=str, ensure_ascii=False)


def _number(shared: dict[str, Any], name: str) -> float | None:
    found = shared.get(name)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None
