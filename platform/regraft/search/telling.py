"""A trial in words: its point of the space, how it ended, what it reached."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.evaluation.figures import figure, member
from regraft.search.columns import value
from regraft.search.trials import TrialRecord

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
