"""axe-core finds nothing serious on any page: evaluation, search, and the endpoint's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from regraft.tuning.pages.page import write_report
from support import axe
from unit.endpoint.model_store import Endpoint
from unit.evaluation import sample_pages
from unit.tuning.sample_records import search, trials

pytestmark = axe.needs_axe
SCREENS = pytest.mark.parametrize(
    ("width", "scheme"), [(width, scheme) for width in (390, 768, 1280) for scheme in ("light", "dark")]
)


@contextmanager
def opened(chromium: Any, url: str, width: int, scheme: str) -> Iterator[Any]:
    """Open a page without its policy, which forbids axe-core's script too."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    try:
        page = context.new_page()
        page.goto(url)
        yield page
    finally:
        context.close()


@SCREENS
def test_the_page_of_an_evaluation(chromium: Any, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "evaluation.html"
    path.write_text(sample_pages.html(), encoding="utf-8")
    with opened(chromium, path.as_uri(), width, scheme) as page:
        assert axe.findings(page) == []


@SCREENS
def test_the_page_of_a_search(chromium: Any, tmp_path: Path, width: int, scheme: str) -> None:
    record = search()
    record.baselines = {"majority": {"accuracy": 0.5}}
    path = write_report(record, trials(), tmp_path)[0]
    with opened(chromium, path.as_uri(), width, scheme) as page:
        assert axe.findings(page) == []


@SCREENS
def test_the_page_of_an_endpoint(chromium: Any, endpoint: Endpoint, width: int, scheme: str) -> None:
    with opened(chromium, f"{endpoint.url}/#text-classification", width, scheme) as page:
        page.wait_for_selector("#ask:not([disabled])")
        page.fill("textarea", "w5 w6 w7")
        page.click("#ask")
        page.wait_for_selector(".bar")
        assert axe.findings(page) == []
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
