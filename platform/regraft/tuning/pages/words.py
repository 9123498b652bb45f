"""Texts of the page: numbers, settings and trials in short form, and the paragraph on what was shared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.report.numbers import format_number, plugin_text
from regraft.spec.search_bases import BASE, short_base
from regraft.tuning.pages.by_depth import ended, epochs_of, value
from regraft.tuning.records import SearchRecord, TrialRecord
from regraft.units import bytes_text, seconds_text

_LONGEST = 240
_IN_PARAGRAPH = ("rows", "computed", "reused", "bytes", "where", "why", "saved_s", "together")


def brief(text: str, most: int) -> str:
    """Shorten a text to at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def compact_number(written: float) -> str:
    """Return a number in its shorter form: `3e-4` instead of 0.0003, `0.1` instead of 1e-1."""
    if written and (abs(written) < 0.01 or abs(written) >= 1e5):
        mantissa, _, power = f"{written:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    return f"{written:.3g}" if abs(written) < 1000 else f"{written:,.0f}"


def bar_label(measured: float) -> str:
    """Return the value of a bar in two or three digits: `33`, `3.6`, `0.04`."""
    return f"{measured:,.0f}" if measured >= 10 else f"{measured:.2g}"


def setting_text(written: Any) -> str:
    """Return the value of a searched field: a number in few digits, a method with its fields, anything else as JSON."""
    if isinstance(written, bool) or written is None:
        return json.dumps(written)
    if isinstance(written, int | float):
        return str(written) if isinstance(written, int) else compact_number(written)
    if isinstance(written, Mapping) and "type" in written:
        return brief(plugin_text(written), _LONGEST)
    return brief(written if isinstance(written, str) else json.dumps(written, default=str), _LONGEST)


def field_text(field: str, written: Any) -> str:
    """Return the value of a searched field; of a base its short name."""
    return short_base(str(written)) if field == BASE else setting_text(written)


def short_name(field: str) -> str:
    """Return a field of `training` or `method` without that prefix; the rest is unambiguous."""
    return field.removeprefix("training.").removeprefix("method.")


def point_text(trial: TrialRecord) -> str:
    """Return the trial's point: `method freeze (depth 4), lr 3e-4`."""
    return ", ".join(f"{short_name(field)} {field_text(field, written)}" for field, written in trial.overrides.items())


def tooltip(trial: TrialRecord, score: Mapping[str, str]) -> str:
    """Return the tooltip of a trial's mark in a plot."""
    reached = value(trial.best, score["name"])
    result = f"{score['name'].replace('_', ' ')} {format_number(reached)}" if reached is not None else "no result"
    return f"{trial.id} · {brief(point_text(trial), 120)} · {result} · {status_text(trial)}"


def status_text(trial: TrialRecord) -> str:
    """Return the status, of a trial that was stopped also when: `stopped after 1 epoch`."""
    epochs = epochs_of(trial)
    if ended(trial) or not epochs:
        return trial.status
    return f"{trial.status} after {epochs:.3g} epoch{'' if epochs == 1 else 's'}"


def numeric_fields(trial: TrialRecord) -> dict[str, float]:
    """Return the trial's searched fields that are numbers."""
    return {
        field: float(written)
        for field, written in trial.overrides.items()
        if isinstance(written, int | float) and not isinstance(written, bool)
    }


def fields_of(trials: Sequence[TrialRecord]) -> list[str]:
    """Return every field that the space varied, in the order of first occurrence."""
    return list(dict.fromkeys(field for trial in trials for field in trial.overrides))


def shared_paragraph(record: SearchRecord, trials: Sequence[TrialRecord]) -> str:
    """Return the paragraph on what the trials shared, or a sentence that nothing was shared."""
    shared = record.shared
    sentences = []
    if rows := _amount(shared, "rows"):
        sentences.append(_kept_sentence(shared, rows, len(record.bases)))
    if saved := _amount(shared, "saved_s"):
        spent = sum(trial.seconds for trial in trials)
        sentences.append(f"That saved {seconds_text(saved)} of computing; the trials took {seconds_text(spent)}.")
    most = max([int(_amount(shared, "together") or 1), *(trial.together for trial in trials)])
    packed = sum(trial.together > 1 for trial in trials)
    if most > 1:
        subject = f"{packed:,} trials" if packed else "Trials"
        sentences.append(f"{subject} trained together with others in one computation, up to {most} at a time.")
    return " ".join(sentences) or "Nothing was shared: each trial computed everything itself."


def _kept_sentence(shared: Mapping[str, Any], rows: float, bases: int) -> str:
    computed, reused = _amount(shared, "computed"), _amount(shared, "reused")
    of = "of the base" if bases < 2 else f"of each of {bases} bases that a trial needed"
    text = f"The outputs of the frozen part {of} for each of {rows:,.0f} rows were kept for all trials"
    if computed is not None or reused:
        text += f": computed for {computed or 0:,.0f} of them"
        text += f", found again from earlier runs for {reused:,.0f}" if reused else ""
    kept, where = _amount(shared, "bytes"), shared.get("where")
    text += f"; {bytes_text(kept)}" if kept else ""
    text += f" {'in ' if where == 'memory' else 'on '}{where}" if isinstance(where, str) and kept else ""
    return f"{text}."


def shared_facts(record: SearchRecord) -> list[tuple[str, str, bool]]:
    """Return what the paragraph leaves out, as name, value and whether to show it as code."""
    facts = [("why", record.shared["why"], False)] if record.shared.get("why") else []
    where = record.shared.get("where")
    if where and not isinstance(where, str):
        facts.append(("where", where, False))
    facts += [
        (name.replace("_", " "), written, False) for name, written in record.shared.items() if name not in _IN_PARAGRAPH
    ]
    return [(name, written if isinstance(written, str) else _json(written), code) for name, written, code in facts]


def _json(written: Any) -> str:
    return json.dumps(written, default=str, ensure_ascii=False)


def _amount(shared: Mapping[str, Any], name: str) -> float | None:
    found = shared.get(name)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None
