"""What to try next where a baseline is better than the best trial of a search, or that trial was stopped early."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from regraft.spec.run import RunSpec
from regraft.spec.search_bases import base_of_trial
from regraft.training.advice import below_text, best_index, longer
from regraft.tuning.pages.by_base import base_rows, base_sentence
from regraft.tuning.records import SearchRecord, TrialRecord

EDGE = 1.5
"""A number within this factor of the end of its range lies at the edge."""


def search_advice(spec: RunSpec, record: SearchRecord, trials: Sequence[TrialRecord], winner: TrialRecord) -> str:
    """Return what to try next; empty for a winner that ran to its end and is not below a baseline.

    Of several bases, the winner is compared with the trials and the baselines of its own, and bases are named that
    cannot be compared.
    """
    own = [trial for trial in trials if base_of_trial(trial.overrides) == base_of_trial(winner.overrides)]
    left_out = base_sentence(base_rows(record, trials))
    below = _below_advice(spec, record.seen_from(winner), own, winner)
    return ". ".join(filter(None, (below, _stopped_advice(winner), left_out)))


def _stopped_advice(winner: TrialRecord) -> str:
    """Return that the winner was stopped early, and the command that trains it to its end."""
    if winner.status != "stopped":
        return ""
    epochs = winner.reports[-1]["epoch"] if winner.reports else 0
    after = f"after {epochs:.3g} epoch{'' if epochs == 1 else 's'}" if epochs else "early"
    sets = [f" --set {shlex.quote(f'{field}={json.dumps(value)}')}" for field, value in winner.overrides.items()]
    return (
        f"trial {winner.id} was stopped {after}: its score is that of an unfinished training, and the best of the "
        f"search all the same. To train it to its end: regraft train SPEC{''.join(sets)}"
    )


def _below_advice(spec: RunSpec, record: SearchRecord, trials: Sequence[TrialRecord], winner: TrialRecord) -> str:
    """Return that the winner is below a baseline, and what to try next; empty if it is not."""
    score = spec.task.score
    below = below_text(score, winner.best or {}, record.baselines)
    if not below:
        return ""
    results = {(trial.best or {}).get(score.name) for trial in trials}
    if len(results - {None}) == 1 and len(trials) > 1:
        return f"{below}. Next: wider ranges in search.space, since all trials came to the same result"
    if edge := _edge(spec, winner):
        return f"{below}. Next: a wider range, since the winner lies at its edge: {edge}"
    scores = [report["metrics"][score.name] for report in winner.reports if score.name in report["metrics"]]
    if scores and best_index(scores, score) == len(scores) - 1 and not winner.overrides.get("training.epochs"):
        return f"{below}. Next: longer trials, since the last evaluation of the winner was its best: {longer(spec)}"
    tried = sorted({_method(trial.overrides.get("method", spec.method.key())) for trial in trials})
    return f"{below}. Next: other methods in search.space (tried: {', '.join(tried)}; `regraft show methods` has all)"


def _edge(spec: RunSpec, winner: TrialRecord) -> str:
    """Return the field of the space whose range ends near the winner's value, with a wider range."""
    for name, draw in spec.searched().space.items():
        value = winner.overrides.get(name)
        if draw.loguniform is None or not isinstance(value, int | float):
            continue
        low, high = draw.loguniform
        if value <= low * EDGE:
            return f"{name}: {{loguniform: [{low / 10:.1e}, {high:.1e}]}}"
        if value >= high / EDGE:
            return f"{name}: {{loguniform: [{low:.1e}, {high * 10:.1e}]}}"
    return ""


def _method(written: object) -> str:
    return str(written["type"]) if isinstance(written, Mapping) else str(written)
