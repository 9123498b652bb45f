"""Names: words that a reader would search for, each class and each private function once."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from house.sources import CODE, TESTS, Function, functions, module_name, tree, words
from support.paths import ROOT

BANNED = frozenset(
    [
        "desk",
        "books",
        "ledger",
        "crew",
        "shelf",
        "bench",
        "workshop",
        "keeper",
        "journal",
        "told",
        "hollow",
        "astray",
        "tape",
        "carrier",
        "wear",
        "parcel",
        "refusals",
        "forms",
        "intake",
        "meters",
        "wishes",
        "exhibits",
        "album",
    ]
)
"""Private metaphors of earlier code: no name holds one."""
AS_A_TITLE = frozenset(["line", "lines", "own", "parts", "plan", "room", "said", "tail", "stub"])
"""Words with a plain meaning elsewhere, which say nothing as the name of a module or a class."""
OF_0_1_0 = {ROOT / "tests" / "unit" / "compatibility" / "first_edition" / "make_store.py"}
"""Files that run in 0.1.0, and so use its names."""
ALIKE = 0.92
"""Similarity of two normalised bodies from which they count as the same."""
SMALLEST = 18
"""Nodes of a body below which two functions may well be alike by chance."""


def names(path: Path) -> Iterator[tuple[str, str]]:
    """(kind, name) of a file's module, classes, functions, parameters and attributes."""
    yield "title", path.stem
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            yield "title", node.name
        elif isinstance(node, Function):
            yield "function", node.name
        elif isinstance(node, ast.arg):
            yield "parameter", node.arg
        elif isinstance(node, ast.Attribute):
            yield "attribute", node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield "attribute", node.target.id


def banned(path: Path) -> set[str]:
    """The names of a file that hold a banned word, and titles that are one."""
    wrong = set()
    for kind, name in names(path):
        found = set(words(name))
        if found & BANNED or (kind == "title" and len(found) == 1 and found & AS_A_TITLE):
            wrong.add(name)
    return wrong


def test_names_hold_no_banned_word() -> None:
    found = {path.name: sorted(wrong) for path in (*CODE, *TESTS) if path not in OF_0_1_0 and (wrong := banned(path))}
    assert found == {}


def test_no_class_name_is_used_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in CODE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module_name(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def normalised(function: Function) -> tuple[str, ...]:
    """The nodes of a body in order: local names by the order of their first use, other names as they are."""
    arguments = [item for item in ast.walk(function.args) if isinstance(item, ast.arg)]
    local = {item.arg for item in arguments} | {
        node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    numbers: dict[str, int] = {}
    body = function.body[1:] if ast.get_docstring(function) else function.body
    parts: list[str] = []
    for statement in body:
        for node in ast.walk(statement):
            label = type(node).__name__
            if isinstance(node, ast.Name):
                label = f"name {numbers.setdefault(node.id, len(numbers))}" if node.id in local else node.id
            elif isinstance(node, ast.Attribute):
                label = f".{node.attr}"
            elif isinstance(node, ast.Constant):
                label = repr(node.value)
            if not isinstance(node, ast.expr_context):
                parts.append(label)
    return tuple(parts)


def private_functions() -> list[tuple[str, tuple[str, ...]]]:
    """Every private function of some size with its normalised body; dunder methods are protocols, not helpers."""
    return [
        (f"{module_name(path)}.{function.name}", body)
        for path in CODE
        for function in functions(path)
        if function.name.startswith("_") and not function.name.startswith("__")
        if len(body := normalised(function)) >= SMALLEST
    ]


def alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two bodies are the same but for names, or nearly."""
    if one == other:
        return True
    if min(len(one), len(other)) < ALIKE * max(len(one), len(other)):
        return False
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.real_quick_ratio() >= ALIKE and matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE


def test_two_bodies_that_differ_in_names_alone_are_alike() -> None:
    first = "def _a(x):\n    y = [v + 1 for v in x]\n    return sum(y) / max(1, len(y))"
    second = "def _b(rows):\n    found = [row + 1 for row in rows]\n    return sum(found) / max(1, len(found))"
    third = "def _c(rows):\n    found = {row: row for row in rows}\n    return sorted(found)[: len(rows)]"
    bodies = [normalised(next(n for n in ast.parse(text).body if isinstance(n, Function))) for text in (first, second)]
    assert alike(*bodies)
    assert not alike(bodies[0], normalised(next(n for n in ast.parse(third).body if isinstance(n, Function))))


def test_no_private_function_is_written_twice() -> None:
    found = private_functions()
    found.sort(key=lambda item: len(item[1]))
    pairs = []
    for number, (name, body) in enumerate(found):
        for other, body2 in found[number + 1 :]:
            if len(body2) * ALIKE > len(body):
                break
            if alike(body, body2):
                pairs.append((name, other))
    assert pairs == []
