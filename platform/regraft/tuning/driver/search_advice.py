"""What to try next where a baseline is better than the best trial of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from regraft.spec.run import RunSpec
from regraft.training.advice import below_text, best_index, longer
from regraft.tuning.records import SearchRecord, TrialRecord

EDGE = 1.5
"""A number within this factor of the end of its range lies at the edge."""


def search_advice(spec: RunSpec, record: SearchRecord, trials: Sequence[TrialRecord], winner: TrialRecord) -> str:
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
