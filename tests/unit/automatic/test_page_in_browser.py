"""The page of an automatic run in a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from regraft.automatic.outcome import AutoOutcome
from regraft.automatic.page import _controls, auto_page
from support.browser import Look


def outcome() -> AutoOutcome:
    interval = {"accuracy": {"low": 0.85, "high": 0.99}}
    control = {"name": "random_weights", "value": 0.6, "difference": 0.33, "low": 0.2, "high": 0.4}
    trial = {"method": "lora", "settings": {"training.lr": 0.001}, "value": 0.93, "seconds": 41.0, "whole": True}
    base = {"reference": "org/small", "found": "in the hub's cache", "parameters": 22_600_000, "why": "tied, cheaper"}
    return AutoOutcome(
        model="tickets",
        version="v1",
        run="tickets-0123456789.auto",
        store="/stores/models",
        task="text-classification",
        base="org/small",
        method={"type": "lora", "rank": 8},
        score="accuracy",
        metrics={"accuracy": 0.93},
        test={"rows": 80, "metrics": {"accuracy": 0.94}, "intervals": interval},
        baselines={"majority": {"accuracy": 0.13}, "nearest_centroid": {"accuracy": 0.76}},
        verdicts="By accuracy, this model is better than the baseline majority.",
        comparison={"controls": [control], "sentence": "By accuracy, it is better than random weights."},
        spec="/stores/models/automatic/tickets-0123456789.auto/spec.yaml",
        page="",
        look=[{"subject": "language", "finding": "probably English", "evidence": "column <text>"}] * 12,
        bases=[{**base, "chosen": True}, {**base, "reference": "org/other", "chosen": False}],
        trials=[{**trial, "chosen": number == 0} for number in range(9)],
        left_out=[{"method": "full", "why": "an epoch takes about 90 s"}],
        budget={"asked": 300.0, "choice": 12.0, "search": 130.0, "end": 110.0},
        rows={"train": 640, "eval": 78, "test": 60},
        created="2026-11-30T18:00:00+00:00",
    )


def test_what_data_say_is_escaped() -> None:
    page = auto_page(outcome(), "name: <b>")
    assert "column &lt;text&gt;" in page and "name: &lt;b&gt;" in page and "<script" not in page


def test_controls_and_headline_are_of_the_same_rows() -> None:
    comparison = {**(outcome().comparison or {}), "side": "test", "rows": 80, "value": 0.94}
    tables = dict(_controls(replace(outcome(), comparison=comparison)))
    tested, chose = tables["on 80 test rows, which chose nothing"], tables["on the evaluation rows, which also chose"]
    assert [(name, value) for name, value, _ in tested] == [("this model", "0.940"), ("random weights", "0.600")]
    assert [name for name, _, _ in chose] == ["this model", "majority", "nearest centroid"] and chose[0][1] == "0.930"
    assert list(dict(_controls(outcome()))) == ["on the evaluation rows, which also chose"]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (390, "dark")])
def test_a_browser_shows_all_of_it_and_asks_for_nothing(browser: Look, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "auto.html"
    path.write_text(auto_page(outcome(), "name: tickets\n" * 30), encoding="utf-8")
    with browser(path, width=width, scheme=scheme) as seen:
        assert not seen.complaints and not seen.requests and seen.cut() == []
        assert seen.visible("section") == 6
        assert min(seen.contrasts(["h1", "td", ".note", ".lede", "nav a", "pre"]).values()) >= 4.5
