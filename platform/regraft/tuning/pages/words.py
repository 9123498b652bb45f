"""A trial in words: its point of the space, how it ended, what it reached."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.report.numbers import figure, member, span
from regraft.tuning.pages.by_depth import value
from regraft.tuning.records import SearchRecord, TrialRecord

_LONGEST = 240


def brief(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def number(written: float) -> str:
    """`3e-4` rather than 0.0003, `0.1` rather than 1e-1."""
    if written and (abs(written) < 0.01 or abs(written) >= 1e5):
        mantissa, _, power = f"{written:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return f"{written:.3g}" if abs(written) < 1000 else f"{written:,.0f}"


def rounded(written: float) -> str:
    """What a bar measures, in two or three digits: `33`, `3.6`, `0.04`."""
    return f"{written:,.0f}" if written >= 10 else f"{written:.2g}"


def setting(written: Any) -> str:
    """The value of a searched field: a number in few digits, a method with its fields, else JSON."""
    if isinstance(written, bool) or written is None:
        return json.dumps(written)
    if isinstance(written, int | float):
        return str(written) if isinstance(written, int) else number(written)
    if isinstance(written, Mapping) and "type" in written:
        return brief(member(written), _LONGEST)
    return brief(written if isinstance(written, str) else json.dumps(written, default=str), _LONGEST)


def short_name(field: str) -> str:
    """A field of `training` or `method` by its last part, which nobody takes for another's."""
    return field.removeprefix("training.").removeprefix("method.")


def point(trial: TrialRecord) -> str:
    """`method freeze (depth 4), lr 3e-4`."""
    return ", ".join(f"{short_name(field)} {setting(written)}" for field, written in trial.overrides.items())


def told(trial: TrialRecord, score: Mapping[str, str]) -> str:
    """What a mark in a picture says of its trial."""
    reached = value(trial.best, score["name"])
    result = f"{score['name'].replace('_', ' ')} {figure(reached)}" if reached is not None else "no result"
    return f"{trial.id} · {brief(point(trial), 120)} · {result} · {trial.status}"


def figures_of(trial: TrialRecord) -> dict[str, float]:
    """The searched fields of it that are numbers."""
    return {
        field: float(written)
        for field, written in trial.overrides.items()
        if isinstance(written, int | float) and not isinstance(written, bool)
    }


def fields_of(trials: Sequence[TrialRecord]) -> list[str]:
    """Every field that the space varied, in the order in which it was first met."""
    return list(dict.fromkeys(field for trial in trials for field in trial.overrides))


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
