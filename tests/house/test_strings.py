"""Every module and function that a string names exists: linters and refactorings do not see them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from regraft.cli import dispatch
from regraft.spec.run import RunSpec
from regraft.store.objects import MARK
from regraft.version import VERSION
from support.paths import ROOT

PATHS = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    if (ROOT / name).is_file()
]
PYTHON = [path for path in PATHS if path.suffix == ".py" and path.name != "test_old_names.py"]
TEXTS = [
    path
    for path in PATHS
    if path.suffix in (".py", ".md", ".yaml", ".tpl", ".toml", ".sh") or "Dockerfile" in path.name
]
NAME = re.compile(r"regraft(\.[A-Za-z_]\w*)+(:[A-Za-z_]\w*)?")
"""A string that is the dotted path of a module or of something in one, with or without a colon."""
COMMAND = re.compile(r"-m (regraft[\w.]*\w)")
IMPORT_PATH = re.compile(r"\b(regraft(?:\.\w+)*:[A-Za-z_]\w*)")
CALLS = {"Later", "reading", "import_module"}


@cache
def exists(name: str) -> bool:
    """Return whether `package.module`, `package.module.name` or `package.module:name` can be found."""
    module, colon, attribute = name.partition(":")
    if colon:
        return exists(module) and hasattr(importlib.import_module(module), attribute)
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    parent, dot, attribute = name.rpartition(".")
    if not dot or not exists(parent):
        return False
    found: object = importlib.import_module("regraft")
    for part in parent.split(".")[1:]:
        found = getattr(found, part, None) or importlib.import_module(f"{getattr(found, '__name__', '')}.{part}")
    return hasattr(found, attribute)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each string of a Python file with its line, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@pytest.mark.parametrize("table", [dispatch.TABLE, dispatch.WORK], ids=["commands", "work"])
def test_the_dispatch_tables_name_functions(table: dict[str, dispatch.Target]) -> None:
    assert table
    for command, target in table.items():
        assert isinstance(target, str) and ":" in target and exists(target), (command, target)


def test_every_string_that_is_a_dotted_name_names_something() -> None:
    pairs = [(path, *string) for path in PYTHON for string in strings(path)]
    found = [(path, line, text) for path, line, text in pairs if NAME.fullmatch(text) and text != MARK]
    assert len(found) > 40
    wrong = [f"{path.relative_to(ROOT)}:{line}: {text}" for path, line, text in found if not exists(text)]
    assert wrong == []


def test_every_module_that_is_imported_late_exists() -> None:
    calls = [
        (path, node.args[0].value)
        for path in PYTHON
        if path.is_relative_to(ROOT / "platform")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in CALLS
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]
    assert len(calls) > 4
    assert [(path, name) for path, name in calls if importlib.util.find_spec(str(name)) is None] == []


def test_every_command_and_import_path_in_a_text_exists() -> None:
    commands, imports = [], []
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        commands += [(path, name) for name in COMMAND.findall(text)]
        imports += [(path, name) for name in IMPORT_PATH.findall(text)]
    assert {"regraft.cli.doctor.ring", "regraft.cli.jobs.entry"} <= {name for _, name in commands}
    assert [(path, name) for path, name in commands if importlib.util.find_spec(name) is None] == []
    assert {"regraft.cluster.serve:app", "regraft.cluster.haproxy:main", "regraft.cli:console"} <= {
        name for _, name in imports
    }, "what others name does not move"
    assert [(path, name) for path, name in imports if not exists(name)] == []


def test_the_build_finds_version_and_commands() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = project["tool"]["hatch"]["version"]
    (match,) = re.finditer(version["pattern"], (ROOT / version["path"]).read_text(encoding="utf-8"))
    assert match["version"] == VERSION
    scripts = project["project"]["scripts"]
    assert scripts == {"regraft": "regraft.cli:console", "regraft-haproxy": "regraft.cluster.haproxy:main"}
    assert all(exists(target) for target in scripts.values())


DOCUMENTS = ("README.md", "docs/flows.md", "docs/glossary.md")
"""Documents beside the package that name its modules without `regraft.` before them."""
PACKAGES = {path.name for path in (ROOT / "platform/regraft").iterdir() if (path / "__init__.py").is_file()}
QUOTED = re.compile(r"`([a-z_]+(?:\.\w+)+)(?:\(.*?\))?`")


def names_something(dotted: str) -> bool:
    """Return whether a dotted name is a module, something in one, or a setting of a spec."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(["regraft", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name) and name not in getattr(found, "model_fields", {}):
                break
            found = getattr(found, name, found)
        else:
            return True
    section = RunSpec.model_fields.get(parts[0])
    return section is not None and f'"{parts[1]}"' in json.dumps(RunSpec.model_json_schema())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_the_map_and_its_pages_name_exists(document: str) -> None:
    text = (ROOT / "platform" / document).read_text(encoding="utf-8")
    found = {name for name in QUOTED.findall(text) if not (ROOT / name).exists()}
    dotted = {name for name in found if name.partition(".")[0] in PACKAGES}
    assert dotted or document.endswith("glossary.md")
    assert [name for name in sorted(dotted) if not names_something(name)] == []
