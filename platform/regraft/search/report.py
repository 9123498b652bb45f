"""The report of a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regraft.search.trials import SearchRecord, TrialRecord


def write_report(record: SearchRecord, trials: Sequence[TrialRecord], folder: Path) -> list[Path]:
    """Write the page."""
    path = folder / "report.html"
    path.write_text(f"<!doctype html><title>{record.name}</title>{len(trials)}")
    return [path]
