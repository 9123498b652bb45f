"""The page of an adaptation: what was decided, in a file that asks for nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regraft.adaptation.outcome import AdaptOutcome
from regraft.adaptation.page import adapt_page
from regraft.store.documents import of_known_keys
from support.browser import Look

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


def candidate(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "chosen": False,
        "source_score": 0.981,
        "effective_classes": 9.3,
        "against": [],
        "validators": {"im": 2.1, "dev": None},
        "intervals": {},
        "verdict": "im does not say that it is better than source-only.",
        "run": None,
        "seconds": 0.4,
        **changes,
    }


def outcome(**changes: Any) -> AdaptOutcome:
    absent = {"validators": {}, "source_score": None, "effective_classes": None, "seconds": None}
    prior = {
        "moved": False,
        "distance": 0.02,
        "classes": [{"class": HOSTILE, "source": 0.5, "target": 0.52, "low": 0.4, "high": 0.6}],
    }
    return AdaptOutcome(
        model="tickets",
        version="v2",
        source="tickets@v1",
        adapted=True,
        chosen="mcc",
        headline="adapted by mcc",
        shift="The features moved.",
        why="The features moved. im and bnm say that it is better.",
        risk="No label of the target was read.",
        run="tickets-0123456789",
        store="/tmp/store",
        candidates=[
            candidate("source-only"),
            candidate("zscore", **absent, verdict="It failed."),
            candidate("mcc", chosen=True, intervals={"im": {"difference": 0.2, "low": 0.1, "high": 0.3}, "bnm": None}),
        ],
        diagnosis={
            "kind": "covariate",
            "classifier": {"statistic": 0.97, "p": 1e-9},
            "mean_discrepancy": None,
            "weighted_auc": 0.96,
            "prior": prior,
        },
        rows={"eval": 20, "target": 120, "train": 200},
        seconds=12.0,
        created="2026-11-30T12:00:00+00:00",
        **changes,
    )


def test_a_page_says_the_decision_the_risk_and_what_is_absent() -> None:
    page = adapt_page(outcome())
    assert "Adapt" in page and "by <b>mcc</b>" in page and "The risk." in page
    assert "im: +0.200 (+0.100 to +0.300)" in page and "200 train, 20 eval, 120 target" in page
    row = page[page.index("<td>zscore</td>") :].partition("</tr>")[0]
    assert row.count(">–</td>") == 4, "a figure that cannot be computed is absent, not 0"
    assert "Whether it held" not in page
    assert "cannot tell" in adapt_page(outcome(check={"sentence": "These rows cannot tell."}))
    stays = adapt_page(replace(outcome(), adapted=False, chosen="source-only"))
    assert "Do not adapt" in stays and "tickets@v1 stands as it is" in stays


def test_an_outcome_is_read_as_it_was_stored() -> None:
    written = outcome().document()
    assert of_known_keys(AdaptOutcome, {**written, "of_a_later_edition": 1}) == outcome()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (390, "dark")])
def test_a_browser_shows_all_of_it_and_asks_for_nothing(browser: Look, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "adapt.html"
    path.write_text(adapt_page(outcome(check={"sentence": "The choice held."})), encoding="utf-8")
    with browser(path, width=width, scheme=scheme) as seen:
        assert not seen.complaints and not seen.requests and seen.cut() == []
        assert seen.visible("section") == 5
        contrasts = seen.contrasts(["h1", "td", ".note", ".lede", "nav a", ".facts dt"])
        assert min(contrasts.values()) >= 4.5
