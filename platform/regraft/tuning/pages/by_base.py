"""The bases of a search side by side: the best trial of each, what it costs, and the baseline of the unchanged base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regraft.spec.search_bases import base_of_trial, short_bases
from regraft.tuning.pages.by_depth import ended, ranked, value
from regraft.tuning.records import SearchRecord, TrialRecord


@dataclass(frozen=True, slots=True)
class BaseRow:
    """The trials of one base."""

    reference: str
    name: str
    trials: tuple[TrialRecord, ...]
    best: TrialRecord | None
    """Its best trial that ran to its end; the best of the others where none did."""
    score: float | None
    centroid: float | None
    """The nearest-centroid baseline on the unchanged base."""

    @property
    def whole(self) -> bool:
        """Whether a trial of it ran to its end, so that it can be compared."""
        return self.best is not None and ended(self.best)

    @property
    def finished(self) -> int:
        """The number of its trials that ran to their end."""
        return sum(ended(trial) for trial in self.trials)

    @property
    def blocks(self) -> int:
        """The number of its blocks; 0 where no trial reported it."""
        return max((trial.blocks or 0 for trial in self.trials), default=0)

    @property
    def parameters(self) -> int:
        """The parameters of its model; 0 where no trial reported it."""
        return max((trial.total for trial in self.trials), default=0)

    @property
    def remark(self) -> str:
        """Why it cannot be compared with the others; empty if it can."""
        if self.whole:
            return ""
        if not self.trials:
            return "no trial"
        if self.best is not None:
            return "not compared: every trial was stopped before its end"
        failed = [trial for trial in self.trials if trial.error]
        return f"no result; the first of {len(failed)} failed with: {failed[0].error}" if failed else "no result"

    def document(self, score: str) -> dict[str, Any]:
        """Return the row as `--json` prints it."""
        best = self.best
        return {
            "base": self.reference,
            "trials": len(self.trials),
            "finished": self.finished,
            "best": best.id if best else None,
            "metrics": {score: self.score} if self.score is not None else {},
            "depth": best.depth if best else None,
            "blocks": self.blocks,
            "seconds": best.seconds if best else None,
            "nearest_centroid": self.centroid,
            "remark": self.remark,
        }


def base_rows(record: SearchRecord, trials: Sequence[TrialRecord]) -> list[BaseRow]:
    """Return a row for each base of a search, the best first; nothing where all trials have one base."""
    names, name = short_bases(list(record.bases)), record.score["name"]
    rows = []
    for reference, known in record.bases.items():
        own = tuple(trial for trial in trials if base_of_trial(trial.overrides) == reference)
        scored = sorted(ranked(own, record.score), key=lambda trial: not ended(trial))
        best = scored[0] if scored else None
        centroid = value(known.get("baselines", {}).get("nearest_centroid"), name)
        rows.append(BaseRow(reference, names[reference], own, best, value(best.best, name) if best else None, centroid))
    sign = -1.0 if record.score["mode"] == "max" else 1.0
    return sorted(rows, key=lambda row: (not row.whole, row.score is None, sign * (row.score or 0.0), row.name))


def base_sentence(rows: Sequence[BaseRow]) -> str:
    """Return which bases cannot be compared, and why; empty if all can."""
    left = [f"{row.name} ({row.remark})" for row in rows if row.remark]
    return f"nothing can be said of {', '.join(left)}" if left else ""
