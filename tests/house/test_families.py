"""No floor asks for a member of an open family by name: what differs between members is asked of the member."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from regraft.contracts import Column, Loss, Medium, Method, Source, Task
from regraft.plugins import PACKAGES, Plugin
from support.paths import ROOT

PLATFORM = ROOT / "platform" / "regraft"
FAMILIES: tuple[type[Plugin], ...] = (Task, Method, Loss, Source, Column, Medium)
HOMES = {
    "tasks": ("tasks",),
    "methods": ("methods",),
    "losses": ("losses",),
    "sources": ("data/sources",),
    "columns": ("columns", "media", "tasks", "data/sources"),
    "media": ("columns", "media", "tasks", "data/sources"),
}
"""Folders in which members may be told apart: a task knows its own columns, and a source names those of its rows."""
OTHER_MEANINGS = {
    ("data/sources/dicom.py", "full"): "all grey levels of a scan",
    ("report/html.py", "number"): "a filter of the templates",
    ("report/html.py", "words"): "a filter of the templates",
    ("serving/batch/output_parts.py", "jsonl"): "a format that answers are written in",
    ("serving/batch/session.py", "parquet"): "a format that answers are written in",
    ("spec/run.py", "prototypes"): "what a task supports",
    ("tuning/driver/centroid_baseline.py", "prototypes"): "what a task supports",
}
"""(file, string): what the string means there instead."""
LABELS = "labels"
"""A key of batches and examples, besides a kind of column: see `contracts.rows.Batch`."""
RICH = ("cli/screen.py", "Text")
"""A class of the library rich."""


def members() -> dict[str, set[str]]:
    """Every member's key, with the families that have it."""
    found: dict[str, set[str]] = {}
    for family in FAMILIES:
        for name in family.names():
            found.setdefault(name, set()).add(family.family)
    return found


def classes() -> dict[str, str]:
    """Every member's class name, with its family."""
    return {family.lookup(name).__name__: family.family for family in FAMILIES for name in family.names()}


def compared(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings that code compares with, matches on, or looks up in a table of classes or functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield from _strings(side)
        elif isinstance(node, ast.MatchValue):
            yield from _strings(node.value)
        elif isinstance(node, ast.Dict) and all(
            isinstance(value, ast.Name | ast.Attribute | ast.Lambda) for value in node.values
        ):
            for key in node.keys:
                if key is not None:
                    yield from _strings(key)


def _strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    for part in parts:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.lineno, part.value


def asked_for(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Classes that `isinstance` and `issubclass` are asked about."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            for part in ast.walk(node.args[1]) if len(node.args) > 1 else ():
                if isinstance(part, ast.Name):
                    yield part.lineno, part.id


def place(path: Path) -> str:
    return path.relative_to(PLATFORM).as_posix()


def files() -> list[Path]:
    return sorted(PLATFORM.rglob("*.py"))


def at_home(path: Path, families: set[str]) -> bool:
    return any(place(path).startswith(f"{home}/") for family in families for home in HOMES[family])


def test_every_family_is_held_to_this() -> None:
    assert {family.family for family in FAMILIES} == set(PACKAGES) == set(HOMES)


def test_no_code_compares_with_a_members_name_outside_its_family() -> None:
    known, found = members(), set()
    for path in files():
        where = place(path)
        for line, text in compared(ast.parse(path.read_text())):
            if (
                text in known
                and text != LABELS
                and not at_home(path, known[text])
                and (where, text) not in OTHER_MEANINGS
            ):
                found.add(f"{where}:{line}: {text!r} of {', '.join(sorted(known[text]))}")
    assert not found, "\n".join(sorted(found))


def test_no_code_asks_for_a_members_class_outside_its_family() -> None:
    known = classes()
    found = {
        f"{place(path)}:{line}: {name}"
        for path in files()
        for line, name in asked_for(ast.parse(path.read_text()))
        if name in known and not at_home(path, {known[name]}) and (place(path), name) != RICH
    }
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize(("where", "text"), OTHER_MEANINGS)
def test_every_exception_is_needed(where: str, text: str) -> None:
    assert text in {found for _, found in compared(ast.parse((PLATFORM / where).read_text()))}
