"""Old names: a user's code that has one fails with the name that replaced it."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regraft import errors
from regraft.contracts import Method, Task
from regraft.errors import RegraftError, RequestError, new_name
from regraft.plugins import add_folder

TABLE = [
    line.split("\t")
    for line in Path(errors.__file__).with_name("old_names.tsv").read_text().splitlines()
    if not line.startswith("#")
]
METHOD = """
from regraft.contracts import Method
{0}

class Mine(Method):
    def adapt(self, model, anatomy):
        pass
"""
TASK = """
from regraft.tasks.text_classification import TextClassification

class Mine(TextClassification):
    {0}
        return super().{1}
"""


def resolved(dotted: str) -> Any:
    """Return the module, or the attribute of a module or class, of that dotted name."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return found
    raise ImportError(dotted)


def is_module(dotted: str) -> bool:
    try:
        return importlib.util.find_spec(dotted) is not None
    except ModuleNotFoundError:  # one of its parents is no package
        return False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's plugin folder that is known for one test."""
    monkeypatch.setattr("regraft.plugins._folders", [])
    for family in ("tasks", "methods"):
        (tmp_path / family).mkdir()
    add_folder(tmp_path)
    return tmp_path


def refused(folder: Path, family: str, text: str) -> str:
    """Return the message that refuses a plugin of that text, and names its file."""
    file = folder / family / "mine.py"
    file.write_text(text)
    with pytest.raises(RequestError) as caught:
        (Task if family == "tasks" else Method).lookup("mine")
    assert caught.value.exit_code == 2 and caught.value.where == "plugins" and str(file) in str(caught.value)
    return caught.value.message


def test_the_table_has_every_old_name_once() -> None:
    assert len({old for old, _ in TABLE}) == len(TABLE) > 150
    assert all(new_name(old) == new for old, new in TABLE)


@pytest.mark.parametrize(("old", "new"), TABLE)
def test_a_new_name_exists_and_an_old_one_does_not(old: str, new: str) -> None:
    if is_module(new):
        assert not is_module(old)
        return
    owner, _, name = new.rpartition(".")
    assert name in getattr(resolved(owner), "__annotations__", ()) or callable(resolved(new))
    with pytest.raises((ImportError, AttributeError)):
        resolved(old)


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        ("import regraft.augment", "regraft.augment", "regraft.media.pixels.augmentation"),
        ("from regraft.augment import augmented", "regraft.augment", "regraft.media.pixels.augmentation"),
        ("from regraft import pictures", "regraft.pictures", "regraft.media.pixels.images"),
        ("from regraft.spec import RunSpec", "regraft.spec.RunSpec", "regraft.spec.run.RunSpec"),
        ("import regraft.search.books", "regraft.search.books", "regraft.tuning.driver.search_store"),
        ("from regraft.search.desk import FrontDesk", "regraft.search.desk", "regraft.tuning.driver.coordinator"),
        ("from regraft.errors import AskedWrong", "regraft.errors.AskedWrong", "regraft.errors.RequestError"),
        ("from regraft.errors import DataError, Full", "regraft.errors.Full", "regraft.errors.Overloaded"),
        ("import regraft.errors as e; e.Lost", "regraft.errors.Lost", "regraft.errors.Conflict"),
    ],
)
def test_a_plugin_that_imports_an_old_name_is_refused_with_the_new_one(
    line: str, old: str, new: str, folder: Path
) -> None:
    assert f"{old} is now {new}" in refused(folder, "methods", METHOD.format(line))


def test_all_old_names_of_a_plugin_are_named_at_once(folder: Path) -> None:
    message = refused(folder, "methods", METHOD.format("from regraft.errors import Denied\nimport regraft.space"))
    assert "regraft.errors.PermissionDenied; regraft.space is now regraft.spec.search: change the import" in message


def test_an_old_name_in_a_module_that_a_plugin_imports_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "beside_the_plugin.py").write_text("from regraft.tokens import padded\n")
    monkeypatch.syspath_prepend(folder)
    message = refused(folder, "methods", METHOD.format("import beside_the_plugin"))
    assert "regraft.tokens is now regraft.tasks.inputs.tokens" in message


def test_another_failing_import_keeps_its_message(folder: Path) -> None:
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in refused(
        folder, "methods", METHOD.format("import nothing_of_that_name")
    )


@pytest.mark.parametrize(
    ("define", "call", "new"),
    [
        ("def settle(self, model, context):", "configure(model, context)", "Task.configure"),
        ("def examine(self, forward, model, batch, context):", "eval_forward()", "Task.eval_forward"),
        ("def infer(self, forward, model, batch, context):", "predict_forward()", "Task.predict_forward"),
        ("def fitted(self, numbers):", "fit_to_rows(numbers)", "Task.fit_to_rows"),
        ("def keeps(self):", "stored_columns()", "Task.stored_columns"),
        ("def reads(self):", "input_columns()", "Task.input_columns"),
        ("def targets(self):", "target_columns()", "Task.target_columns"),
        ("def truth(self, row, context):", "target(row, context)", "OneVector.target"),
        ("def truths(self, found):", "targets(found)", "OneVector.targets"),
        ("def told(self, example, row, context):", "with_target()", "OneVector.with_target"),
        ("def together(self, batch, examples):", "with_targets()", "OneVector.with_targets"),
    ],
)
def test_a_task_that_overrides_an_old_hook_is_refused_with_the_new_one(
    define: str, call: str, new: str, folder: Path
) -> None:
    name = define.removeprefix("def ").partition("(")[0]
    message = refused(folder, "tasks", TASK.format(define, call))
    assert f"Mine.{name} overrides a hook that is now regraft." in message and f"{new}: rename the method" in message


@pytest.mark.parametrize(
    ("name", "new"),
    [("reads_column", "text_column"), ("writes_column", "reference_column"), ("usual", "default_lengths")],
)
def test_a_task_that_sets_an_old_class_attribute_is_refused_with_the_new_one(name: str, new: str, folder: Path) -> None:
    text = f"""
from typing import Any, ClassVar
from regraft.tasks.translation import Translation

class Mine(Translation):
    {name}: ClassVar[Any] = "french"
"""
    message = refused(folder, "tasks", text)
    assert f"Mine.{name} overrides a hook that is now regraft." in message
    assert f"Seq2Seq.{new}: rename the attribute" in message


def test_new_hooks_and_names_that_are_no_hooks_load(folder: Path) -> None:
    text = TASK.format("def targets(self, found):", "targets(found)")
    (folder / "tasks" / "mine.py").write_text(
        f"{text}\n    settle: int = 3\n\n    def helped(self):\n        return 1\n"
    )
    assert Task.lookup("mine")().model_dump()["settle"] == 3
    # What is an old hook of tasks is no hook of methods.
    (folder / "methods" / "mine.py").write_text(METHOD.format("") + "\n    def reads(self):\n        return 1\n")
    assert Method.lookup("mine").key() == "mine"


@pytest.mark.parametrize(("old", "new"), [pair for pair in TABLE if pair[0].startswith("regraft.errors.")])
def test_an_old_error_fails_anywhere_with_the_new_name(old: str, new: str) -> None:
    code = f"from regraft.errors import {old.rpartition('.')[2]}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and f"ImportError: {old} is now {new}" in done.stderr
    assert issubclass(resolved(new), RegraftError)


def test_any_other_name_of_the_errors_is_an_attribute_error() -> None:
    assert not hasattr(errors, "NoSuchError")
    with pytest.raises(ImportError, match="cannot import name 'NoSuchError'"):
        exec("from regraft.errors import NoSuchError")
