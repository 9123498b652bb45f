"""The page about safety names tests that exist, and is found from both front pages."""

from __future__ import annotations

import re

from support.paths import ROOT

PAGE = ROOT / "platform" / "docs" / "security.md"


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[^`]+\.py)`", PAGE.read_text(encoding="utf-8"))
    assert len(set(named)) > 10
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_every_promise_names_a_test() -> None:
    promises = PAGE.read_text(encoding="utf-8").partition("## What is promised\n")[2].partition("\n## ")[0]
    for promise in promises.strip().split("\n\n"):
        assert promise.startswith("**") and re.search(r"`tests/[^`]+\.py`", promise), promise


def test_every_test_of_deliberate_breaking_is_named() -> None:
    named = PAGE.read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / "tests" / "breaker").glob("test_*.py")}
    assert files and [name for name in sorted(files) if f"tests/breaker/{name}" not in named] == []


def test_every_number_without_a_decision_is_said() -> None:
    folder = ROOT / "platform" / "docs" / "decisions"
    given = {int(path.name[:3]) for path in folder.glob("[0-9][0-9][0-9]-*.md")}
    said = (folder / "README.md").read_text(encoding="utf-8")
    missing = set(range(1, max(given) + 1)) - given
    assert [number for number in sorted(missing) if f"{number:03d}" not in said] == []
    assert len(given) == len(list(folder.glob("[0-9]*.md"))), "a number is given once"


def test_both_front_pages_lead_to_it() -> None:
    assert "platform/docs/security.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/security.md)" in (ROOT / "platform" / "README.md").read_text(encoding="utf-8")
