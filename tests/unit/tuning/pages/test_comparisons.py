"""The page compares like with like: trials that ran to their end with each other, and the best with the baselines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.tuning.pages.page import write_report
from regraft.tuning.records import SearchRecord, TrialRecord
from support.browser import Look
from unit.tuning.sample_records import search, trial


def page(folder: Path, record: SearchRecord, made: list[TrialRecord]) -> str:
    return write_report(record, made, folder)[0].read_text(encoding="utf-8")


def freeze(number: int, depth: int, **changes: Any) -> TrialRecord:
    return trial(number, {"type": "freeze", "depth": depth}, 1e-4, **changes)


@pytest.fixture
def stopped() -> list[TrialRecord]:
    """Two trials that ran to their end, and two freezes that were stopped after one epoch of four, one of them best."""
    best = {"accuracy": 0.99}
    return [
        trial(1, "full", 1e-4),
        trial(2, "feature-extraction", 5e-3),
        freeze(3, 4, epochs=1, status="stopped", best=best),
        freeze(4, 5, epochs=1, status="stopped"),
    ]


def table_of(text: str) -> str:
    return text[text.index('id="trials"') : text.index('id="shared"')]


def test_the_sentence_leaves_stopped_trials_out_and_says_so(tmp_path: Path, stopped: list[TrialRecord]) -> None:
    text = page(tmp_path, search(), stopped)
    assert "Nothing can be said of 4 of 6 blocks frozen, 5 of 6 blocks frozen: all trials there were stopped" in text
    assert "trials that ran to their end" in text


def test_the_tables_mark_stopped_trials_and_set_them_apart(tmp_path: Path, stopped: list[TrialRecord]) -> None:
    text = page(tmp_path, search(), stopped)
    table = table_of(text)
    assert [found for found in re.findall(r"<td>(t\d+)", table)][:2] == ["t0001", "t0002"], "ended ones come first"
    assert table.index("Stopped before their end") < table.index("t0003") < table.index("t0004")
    assert table.count("○") == 2 and table.count(">1 of 4<") == 2
    depths = text[text.index('id="depth"') : text.index('id="trials"')]
    assert depths.count("not compared: stopped before the end") == 2


def test_the_line_of_the_picture_passes_by_stopped_trials(
    browser: Look, tmp_path: Path, stopped: list[TrialRecord]
) -> None:
    page(tmp_path, search(), stopped)
    with browser(tmp_path / "report.html") as seen:
        tooltips = seen.page.eval_on_selector_all("svg.drawn.wide title", "all => all.map(one => one.textContent)")
    assert sum("stopped after 1 epoch" in text for text in tooltips) >= 2


def test_a_winner_that_was_stopped_is_called_so(tmp_path: Path, stopped: list[TrialRecord]) -> None:
    record = search()
    record.winner = "t0003"
    assert "trial t0003, stopped after 1 epoch" in page(tmp_path, record, stopped)


def test_nothing_is_compared_when_no_trial_ended(tmp_path: Path) -> None:
    made = [freeze(number, number, epochs=1, status="stopped") for number in (2, 3)]
    assert "No trial ran to its end" in page(tmp_path, search(), made)


def hexed(right: int, rows: int) -> str:
    return np.packbits([1] * right + [0] * (rows - right)).tobytes().hex()


@pytest.mark.parametrize(
    ("centroid", "said"), [(190, "worse than"), (150, "not distinguishable from"), (20, "better than")]
)
def test_the_best_trial_stands_beside_the_baselines(browser: Look, tmp_path: Path, centroid: int, said: str) -> None:
    record = search(rows={"train": 100, "eval": 200})
    record.baselines = {"majority": {"accuracy": 0.25}, "nearest_centroid": {"accuracy": centroid / 200}}
    record.baseline_correct, record.majority_correct = hexed(centroid, 200), hexed(50, 200)
    best = trial(1, best={"accuracy": 0.755}, correct=hexed(151, 200))
    text = page(tmp_path, record, [best, trial(2, "lora", best={"accuracy": 0.6})])
    assert f"{said} the baseline nearest centroid" in text and "better than the baseline majority" in text
    with browser(tmp_path / "report.html") as seen:
        assert [item.inner_text() for item in seen.page.query_selector_all(".hero .who")] == [
            "trial t0001",
            "majority",
            "nearest centroid",
        ]
        assert seen.visible("section#trials tr.baseline") == 2


def test_a_search_without_baselines_says_nothing_of_them(tmp_path: Path) -> None:
    assert "baseline" not in re.sub(r"<style.*?</style>", "", page(tmp_path, search(), [trial(1)]), flags=re.S)


def test_both_meanings_of_register_are_said(tmp_path: Path) -> None:
    text = page(tmp_path, search(), [trial(1), trial(2, "lora")])
    assert re.search(r"regraft search SPEC --register t000\d", text)
    assert "<code>--register 3</code> is the three best" in text
