"""The page of a comparison in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.comparison.page import comparison_page
from support.browser import Look
from unit.comparison.test_verdict import compared, model


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (390, "dark")])
def test_a_browser_shows_all_of_it_and_asks_for_nothing(browser: Look, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "comparison.html"
    controls = [model("words", 0.88, knows_base=False), model("random_weights", 0.6, knows_base=False)]
    path.write_text(comparison_page("tickets@v1", compared(*controls, model("frozen_probe", 0.8))), encoding="utf-8")
    with browser(path, width=width, scheme=scheme) as seen:
        assert not seen.complaints and not seen.requests and seen.cut() == []
        assert seen.visible("section") == 2 and seen.visible(".dot") == 7
        assert min(seen.contrasts(["h1", "td", ".note", ".lede", "nav a", ".beside", "td .none"]).values()) >= 4.5
