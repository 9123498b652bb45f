"""The best trial beside the baselines of its search: a chart, a sentence, and rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from regraft.report import charts
from regraft.store.baseline_verdicts import BaselineVerdict, compare, sentence
from regraft.training.evaluate import gain
from regraft.tuning.pages.by_depth import value
from regraft.tuning.records import SearchRecord, TrialRecord
from regraft.units import counted


def baseline_verdicts(record: SearchRecord, winner: TrialRecord) -> tuple[BaselineVerdict, ...]:
    """Compare a trial with each baseline; intervals need the correct rows of both."""
    bounds: dict[str, Mapping[str, float] | None] = {}
    if record.score["name"] == "accuracy":
        rows = record.rows.get("eval", 0)
        measured = {"nearest_centroid": record.baseline_correct, "majority": record.majority_correct}
        bounds = {name: gain(rows, winner.correct, correct) for name, correct in measured.items()}
    return compare(record.score, value(winner.best, record.score["name"]), record.baselines, bounds)


def baseline_sentence(record: SearchRecord, winner: TrialRecord) -> str:
    """Return how the trial compares with the baselines, and its result on the test rows; empty without either."""
    name = record.score["name"]
    text = sentence(baseline_verdicts(record, winner), name, f"trial {winner.id}")
    text = f"{text} It was chosen by these very rows, so its score is a little too good." if text else ""
    found = text_on_test(record.test.get(winner.id, {}), name)
    return f"{text} On the test rows it has {found}.".strip() if found else text


def text_on_test(test: Mapping[str, Any], name: str) -> str:
    """Return `accuracy 0.91, 95 % interval 0.88 to 0.94, measured once on 200 rows`; empty where nothing is known."""
    score = (test.get("metrics") or {}).get(name)
    if score is None:
        return ""
    ends = (test.get("intervals") or {}).get(name)
    interval = f"95 % interval {ends['low']:.4g} to {ends['high']:.4g}, " if ends else ""
    return f"{name} {score:.4g}, {interval}measured once on {counted(int(test.get('rows', 0)), 'row')}"


def baseline_chart(record: SearchRecord, winner: TrialRecord) -> charts.Standings | None:
    """Return the chart of the trial's score and the baselines'; None without any."""
    score, others = value(winner.best, record.score["name"]), list(_scores(record))
    return charts.standings(score, None, others, f"trial {winner.id}") if score is not None and others else None


def baseline_rows(record: SearchRecord) -> list[tuple[str, float]]:
    """Return name and score of each baseline, the best first."""
    sign = -1.0 if record.score["mode"] == "max" else 1.0
    return sorted(_scores(record), key=lambda pair: sign * pair[1])


def _scores(record: SearchRecord) -> Iterator[tuple[str, float]]:
    name = record.score["name"]
    for baseline, measured in record.baselines.items():
        found = value(measured if isinstance(measured, Mapping) else {name: measured}, name)
        if found is not None:
            yield baseline.replace("_", " "), found
