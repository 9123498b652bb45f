"""Every test of 0.1.0 is still there, under its old name or a new one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from house.sources import TESTS, Function, tree
from support.paths import ROOT

TABLE = Path(__file__).with_name("tests_of_0_1_0.tsv")


def named_tests(path: Path) -> Iterator[str]:
    """The ids of a file's tests without parameters; imported suites count where they are imported."""
    where = path.relative_to(ROOT)
    for node in ast.walk(tree(path)):
        names = [node.name] if isinstance(node, Function) else []
        names += [alias.asname or alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        yield from (f"{where}::{name}" for name in names if name.startswith("test_"))


def test_no_test_of_0_1_0_is_lost() -> None:
    rows = [line.split("\t") for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    assert len(rows) == 1465
    known = {name for path in TESTS for name in named_tests(path)}
    assert [row for row in rows if row[1] not in known] == []
