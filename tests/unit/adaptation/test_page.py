"""The page of an adaptation: what was decided, in a file that asks for nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from regraft.adaptation.outcome import AdaptOutcome
from regraft.adaptation.page import adapt_page
from support.browser import Look
from unit.adaptation.sample_outcome import outcome


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
    assert AdaptOutcome.read({**written, "of_a_later_edition": 1}) == outcome()


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
