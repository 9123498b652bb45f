"""The page: self-contained, legible on every screen, and safe against hostile labels and texts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regraft.contracts.findings import Findings, Matrix, Table
from regraft.report.numbers import format_number
from support.browser import Look
from unit.evaluation import sample_pages

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>'</style></svg><b>"
WORDS = (
    "h1",
    "h2",
    "p.words",
    "td:not(.zero)",
    ".chip.truth",
    ".chip.predicted",
    ".note",
    ".lede",
    "nav a",
    ".facts dt",
    ".row-view > header",
    "figcaption",
    ".entity.right",
    ".entity.missed",
    "td.zero",
    ".scale span",
)
"""Selectors of the texts of a page."""
SCREENS = pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (1180, "dark"), (390, "light"), (390, "dark")])
WIDTHS = pytest.mark.parametrize("width", [390, 768, 1280])


def written(folder: Path, text: str) -> Path:
    path = folder / "evaluation.html"
    path.write_text(text, encoding="utf-8")
    return path


@SCREENS
def test_a_browser_shows_everything_and_asks_for_nothing(
    browser: Look, tmp_path: Path, width: int, scheme: str
) -> None:
    with browser(written(tmp_path, sample_pages.html()), width=width, scheme=scheme) as seen:
        assert seen.complaints == [] and seen.requests == []
        shown = {name: seen.visible(name) for name in (".matrix td.hit", ".plain", "svg.chart", ".row-view", ".entity")}
        assert shown == {".matrix td.hit": 3, ".plain": 2, "svg.chart": 3, ".row-view": 10, ".entity": 2}
        pictures = seen.page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
        assert len(pictures) == 3 and all(pictures)
        assert seen.visible("svg.boxes rect") == 2


@SCREENS
def test_nothing_is_wider_than_the_screen(browser: Look, tmp_path: Path, width: int, scheme: str) -> None:
    many = tuple(f"a rather long name of class {number}" for number in range(40))
    text = sample_pages.html(sample_pages.findings(many), sample_pages.row_views("x" * 3000, "y" * 300), model="m" * 64)
    with browser(written(tmp_path, text), width=width, scheme=scheme) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert seen.complaints == []


@WIDTHS
def test_nothing_is_cut(browser: Look, tmp_path: Path, width: int) -> None:
    """Long names and wide tables are wrapped, or scroll in a box that shows it."""
    many = tuple(f"a rather long name of class {number}" for number in range(40))
    wide = Table("Wide", tuple(f"a column {n}" for n in range(14)), tuple((0.123,) * 14 for _ in range(3)))
    for labels in (("ant", "bee"), ("a" * 60, "long name with many words in it, and more of them"), many):
        found = sample_pages.findings(labels)
        text = sample_pages.html(
            replace(found, tables=(*found.tables, wide)), sample_pages.row_views("x" * 300, "y" * 90)
        )
        with browser(written(tmp_path, text), width=width) as seen:
            assert seen.cut() == []
            assert "table: Wide" in seen.scrolling() or width > 900


def test_a_table_that_fits_has_no_hint(browser: Look, tmp_path: Path) -> None:
    with browser(written(tmp_path, sample_pages.html()), width=1280) as seen:
        assert seen.cut() == [] and seen.scrolling() == []
        heights = seen.page.eval_on_selector_all(".further", "all => all.map(one => one.offsetHeight)")
        assert heights and set(heights) == {0}


def uneven() -> Findings:
    """Return a matrix with every strength of colour, and with empty rows."""
    names = tuple(f"class {number}" for number in range(6))
    counts = (
        (40, 0, 0, 0, 0, 0),
        (10, 30, 0, 0, 0, 0),
        (20, 1, 19, 0, 0, 0),
        (30, 0, 0, 10, 0, 0),
        (40, *[0] * 5),
        (0,) * 6,
    )
    return Findings(tables=sample_pages.findings().tables, matrices=(Matrix("Confusion", names, names, counts),))


@SCREENS
def test_texts_stand_out_from_what_is_behind_them(browser: Look, tmp_path: Path, width: int, scheme: str) -> None:
    """Texts have the contrast of 4.5 that WCAG 2.2 requires; counts of zero may be fainter."""
    with browser(written(tmp_path, sample_pages.html(uneven())), width=width, scheme=scheme) as seen:
        found = seen.contrasts(WORDS)
    assert found.pop("td.zero") >= 3
    assert len(found) > 10 and min(found.values()) >= 4.5, found


def test_hostile_labels_are_words(browser: Look, tmp_path: Path) -> None:
    found = sample_pages.findings(("ant", HOSTILE))
    text = sample_pages.html(
        found,
        sample_pages.row_views(HOSTILE, HOSTILE),
        labels=["ant", HOSTILE],
        data={
            "path": f"/data/{HOSTILE}",
            "rows": 3,
            "skipped": {"count": 1, "rows": [HOSTILE]},
            "fingerprint": "f",
            "columns": {"text": HOSTILE},
        },
        base={"reference": HOSTILE, "hash": "0"},
    )
    assert "<script" not in text and "<img src=x" not in text
    with browser(written(tmp_path, text)) as seen:
        assert seen.complaints == [] and seen.requests == []
        assert seen.page.evaluate("document.scripts.length") == 0
        assert HOSTILE in seen.page.inner_text("body")


def test_hostile_labels_are_escaped_without_a_browser_too() -> None:
    text = sample_pages.html(sample_pages.findings((HOSTILE,)), sample_pages.row_views(HOSTILE, HOSTILE))
    assert "<script" not in text and "onerror=alert(2)>'" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_the_page_forbids_itself_to_run_or_fetch() -> None:
    text = sample_pages.html()
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", text)
    assert "url(" not in text and "@import" not in text and "http-equiv" in text


def test_the_score_and_its_interval_are_reported(browser: Look, tmp_path: Path) -> None:
    with browser(written(tmp_path, sample_pages.html())) as seen:
        assert seen.page.inner_text(".score .figure") == "0.750"
        assert "0.500 and 0.875" in seen.page.inner_text(".score .range")
        assert "at training" in seen.page.inner_text(".standings")


def test_a_page_without_findings_or_worst_rows_has_no_empty_parts() -> None:
    text = sample_pages.html(Findings(), (), intervals={}, recorded={"metrics": {}, "baselines": {}})
    for part in ("confusion", "curves", "worst", "tables", "against"):
        assert f'id="{part}"' not in text and f'href="#{part}"' not in text


def test_a_matrix_of_many_classes_lists_what_is_confused_most() -> None:
    names = tuple(f"class {number}" for number in range(12))
    counts = [[5 if one == other else 0 for other in range(12)] for one in range(12)]
    counts[3][7] = 4
    matrix = Matrix("Confusion", names, names, tuple(map(tuple, counts)))
    text = sample_pages.html(Findings(matrices=(matrix,)), ())
    assert "Most often confused" in text
    assert re.search(r"<td>class 3</td><td>class 7</td><td class=\"num\">4</td><td class=\"num\">44 %</td>", text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.91666, "0.917"), (0.00123, "0.00123"), (12, "12"), (1234567, "1,234,567"), (None, "–"), (134.0, "134")],
)
def test_figures_are_short(value: Any, expected: str) -> None:
    assert format_number(value) == expected
