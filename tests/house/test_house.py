"""Rules of the house that a machine can check."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import regraft
from regraft import errors
from regraft.contracts import Column, Loss, Medium, Method, Source, Task
from regraft.errors import RegraftError
from regraft.plugins import Plugin
from regraft.spec.run import RunSpec
from regraft.spec.serve import ServeSpec
from support.paths import ROOT

CODE = sorted((ROOT / "platform").rglob("*.py"))
FAMILIES: tuple[type[Plugin], ...] = (Task, Method, Loss, Source, Column, Medium)
DRAWERS = {"utils", "helpers", "common", "misc", "manager", "core", "base"}


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_style_is_clean() -> None:
    assert run("ruff", "check", ".") == ""
    assert run("ruff", "format", "--check", ".") == ""


@pytest.mark.slow
def test_types_are_strict() -> None:
    assert run("mypy") == ""


def test_no_file_is_long_and_no_module_is_a_drawer() -> None:
    assert CODE
    for path in CODE:
        assert len(path.read_text().splitlines()) <= 400, path
        assert path.stem not in DRAWERS, path


def test_nothing_unsafe_is_written() -> None:
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", "") or ""}
                assert not names & {"pickle", "dill", "cloudpickle", "joblib"}, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "eval", "exec"}:
                pytest.fail(f"{path}: {ast.unparse(node)}")
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", path


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "specs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    kind = ServeSpec if path.stem == "serve" else RunSpec
    spec = kind.load(path)
    assert kind.resolve(yaml.safe_load(spec.dump())) == spec


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_every_plugin_documents_each_field_and_survives_json(family: type[Plugin]) -> None:
    assert family.names()
    for name in family.names():
        member = family.lookup(name)
        assert inspect.getdoc(member), name
        for field, info in member.model_fields.items():
            assert info.description, f"{name}.{field}"
        required = {field: info for field, info in member.model_fields.items() if info.is_required()}
        made = member.model_validate({field: (info.examples or [None])[0] for field, info in required.items()})
        assert family.parse(made.model_dump(mode="json")) == made


def test_every_error_crosses_processes_unchanged() -> None:
    classes = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, RegraftError)]
    assert len(classes) > 10
    for cls in classes:
        error = cls(("first", "second"), "here") if cls is errors.SpecError else cls("what", "here")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.where) == (type(error), str(error), error.where)
        assert cls.__name__ in (errors.__doc__ or ""), "the tree in the module's docstring is complete"


def test_the_public_face_is_exact_and_imports_nothing_heavy() -> None:
    assert sorted(regraft.__all__) == [
        "__version__",
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
    look = "import regraft, sys; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT / "platform", capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["regraft.contracts", "regraft.cli.runs", "regraft.cli.models", "regraft.cli.jobs.remote"]
)
def test_what_commands_without_a_model_import_is_light(module: str) -> None:
    look = f"import {module}, sys; print(sorted({{'torch', 'ray', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT / "platform", capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_whatever_starts_a_ray_says_whether_it_asks_for_a_token() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    starts = re.compile(r"\bray start\b|\bray up\b|\"ray\"\)?, \"start\"|kind: Ray(Cluster|Job|Service)|\bray\.init\(")
    says = re.compile(r"RAY_AUTH_MODE|authOptions|on_ray\b")
    told = [name for name in files if (ROOT / name).is_file() and not name.endswith((".csv", ".json", ".lock"))]
    texts = {name: (ROOT / name).read_text(encoding="utf-8", errors="replace") for name in told}
    # A chart says it once, in the template that all of its clusters are made from.
    chart = "".join(text for name, text in texts.items() if name.startswith("helm/"))
    texts = {name: chart if name.startswith("helm/") else text for name, text in texts.items()}
    silent = [name for name, text in texts.items() if starts.search(text) and not says.search(text)]
    assert silent == [], "RAY_AUTH_MODE=token (KubeRay: authOptions) belongs beside every start of a Ray"
    assert "RAY_AUTH_MODE=token" in texts[".ci/run"]
