"""The command line starts quickly, and every command that can be parsed has a function."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import regraft as package
from regraft.cli import dispatch
from regraft.cli.parser import build
from support.paths import ROOT

HEAVY = ("torch", "transformers", "ray", "pydantic", "numpy", "rich", "boto3")


def loaded_by(code: str) -> list[str]:
    """Return the heavy packages that a fresh interpreter has imported after `code`."""
    told = f"import sys\n{code}\nprint('\\n' + ' '.join(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    environment = {"PYTHONPATH": str(ROOT / "platform"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["models", "promote", "-h"], ["--version"], ["trian"]]
)
def test_help_and_errors_load_nothing_heavy(argv: list[str]) -> None:
    assert loaded_by(f"from regraft.cli import main; main({argv!r})") == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import regraft; regraft.train, regraft.load") == []


def test_a_model_list_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    loaded = loaded_by(
        f"from regraft.cli import main; assert main(['models', 'list', '--store', {str(tmp_path)!r}]) == 0"
    )
    assert not {"torch", "ray", "transformers"} & set(loaded)


def commands(parser: argparse.ArgumentParser) -> list[str]:
    """Yield every leaf command by its full name."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        return [str(parser.get_default("command"))]
    return [name for inner in groups[0].choices.values() for name in commands(inner)]


def test_the_table_and_the_parser_name_the_same_commands() -> None:
    assert sorted(commands(build())) == sorted(dispatch.TABLE)


@pytest.mark.parametrize("target", [*dispatch.TABLE.values(), *dispatch.WORK.values()], ids=str)
def test_every_entry_of_the_table_can_be_imported(target: str) -> None:
    assert callable(dispatch.function(target))


def test_all_of_the_package_is_exact() -> None:
    functions = [
        "adapt",
        "auto",
        "create_store",
        "evaluate",
        "load",
        "plan",
        "predict",
        "search",
        "select",
        "teach",
        "train",
    ]
    assert package.__all__ == ["__version__", *functions]
    assert all(hasattr(package, name) for name in package.__all__)


def test_the_version_is_the_one_that_is_built() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]
    found = re.search(built["pattern"], (ROOT / built["path"]).read_text())
    assert found is not None
    assert found["version"] == package.__version__
