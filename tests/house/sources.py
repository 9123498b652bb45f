"""The platform's source files as syntax trees, for the tests of the house."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from support.paths import PLATFORM, ROOT

PACKAGE = PLATFORM / "regraft"
CODE = tuple(sorted(PACKAGE.rglob("*.py")))
TESTS = tuple(sorted((ROOT / "tests").rglob("*.py")))

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PLATFORM).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def functions(path: Path) -> Iterator[Function]:
    """Every function and method of a file, nested ones included."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def methods_and_functions(path: Path) -> Iterator[tuple[str, Function]]:
    """Every function with its qualified name."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield f"{prefix}{child.name}", child
                yield from walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    return walk(tree(path), "")


def words(name: str) -> list[str]:
    """The words of an identifier, in lower case, split at `_` and capitals."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def length(function: Function) -> int:
    """Lines of a function without its decorators."""
    return (function.end_lineno or function.lineno) - function.lineno + 1
