"""Bases side by side: each with its best trial, those that cannot be compared last and named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from regraft.tuning.pages.by_base import base_rows, base_sentence
from regraft.tuning.records import TrialRecord
from unit.tuning.sample_records import search, trial

BASES = {f"org/{name}": {"hash": name} for name in "abcd"}


def of(number: int, base: str, score: float | None, **changes: Any) -> TrialRecord:
    one = trial(number, "full")
    best = None if score is None else {"accuracy": score}
    return replace(one, best=best, overrides={**one.overrides, "base": f"org/{base}"}, **changes)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_bases_come_by_their_best_whole_trial_and_what_cannot_be_compared_is_named(mode: str) -> None:
    record = search(bases=BASES, score={"name": "accuracy", "mode": mode})
    made = [
        of(1, "a", 0.7),
        of(2, "b", 0.6),
        of(3, "b", 0.8 if mode == "max" else 0.9),
        of(4, "c", 0.99 if mode == "max" else 0.01, status="stopped"),
        of(5, "d", None, status="failed", error="it ran out of memory"),
    ]
    rows = base_rows(record, made)
    assert [row.name for row in rows] == ["org/b", "org/a", "org/c", "org/d"]
    assert [row.best.id if row.best else None for row in rows] == [
        "t0003" if mode == "max" else "t0002",
        "t0001",
        "t0004",
        None,
    ]
    assert base_sentence(rows) == (
        "nothing can be said of org/c (not compared: every trial was stopped before its end), org/d (no result; the "
        "first of 1 failed with: it ran out of memory)"
    )
    assert base_sentence(rows[:2]) == ""
    assert rows[0].document("accuracy")["metrics"] == {"accuracy": rows[0].score}


def test_a_search_of_one_base_has_no_rows() -> None:
    assert base_rows(search(), [trial(1)]) == []
