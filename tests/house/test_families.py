"""No floor asks for a member of an open family by name: what differs between members is asked of the member."""

from __future__ import annotations

import ast
import inspect
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
    ("bases/families.py", "embeddings"): "a part of many models",
    ("tasks/embeddings.py", "feature-extraction"): "the task in the Inference API",
    ("adaptation/runs.py", "prototypes"): "what a task supports",
    ("cli/evaluate.py", "label"): "the first column of a task's own tables",
    ("cli/show.py", "arrow"): "a key of the document that `--json` prints",
    ("comparison/page.py", "words"): "what a dull baseline reads",
    ("data/class_folders.py", "label"): "the column that names of folders give",
    ("data/json_shape.py", "images"): "a key of COCO files",
    ("data/yolo_layout.py", "images"): "the name of a folder",
    ("evaluation/episodes.py", "prototypes"): "what a task supports",
    ("evaluation/page.py", "boxes"): "the shape of a view",
    ("report/html.py", "number"): "a filter of the templates",
    ("report/html.py", "words"): "a filter of the templates",
    ("selection/sampled_rows.py", "prototypes"): "what a task supports",
    ("serving/batch/output_parts.py", "csv"): "a format that answers are written in",
    ("serving/batch/output_parts.py", "jsonl"): "a format that answers are written in",
    ("serving/batch/output_parts.py", "parquet"): "a format that answers are written in",
    ("serving/batch/session.py", "parquet"): "a format that answers are written in",
    ("spec/feature_training.py", "prototypes"): "what a task supports",
    ("spec/closed_form.py", "prototypes"): "what a task supports",
    **{
        ("store/card.py", name): "a pipeline of the Hugging Face Hub"
        for name in (
            "audio-classification",
            "depth-estimation",
            "zero-shot-image-classification",
            "feature-extraction",
            "image-classification",
            "object-detection",
            "question-answering",
            "summarization",
            "text-classification",
            "text-generation",
            "token-classification",
            "translation",
        )
    },
    ("tasks/image_classification.py", "prototypes"): "what a task supports",
    ("tasks/metrics/detection.py", "images"): "a key of COCO files",
    ("tasks/text_classification.py", "prototypes"): "what a task supports",
    ("tasks/text_pair_classification.py", "prototypes"): "what a task supports",
    ("tasks/token_classification.py", "spans"): "the places of words in an encoded row",
    ("tasks/zero_shot_image_classification.py", "prototypes"): "what a task supports",
    ("training/baselines.py", "prototypes"): "the method whose result is the baseline; no model is asked for it",
    ("tuning/driver/centroid_baseline.py", "prototypes"): "what a task supports",
    ("tuning/worker/base_trials.py", "feature-extraction"): "a method that is made, to compute ahead what others share",
    ("tuning/worker/base_trials.py", "freeze"): "a method that is made, to compute ahead what others share",
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


def compared(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Strings that code compares with or matches on, and those in sets, keys of tables and constants of modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield from _strings(side)
        elif isinstance(node, ast.MatchValue):
            yield from _strings(node.value)
        elif isinstance(node, ast.Set):
            yield from _strings(node)
        elif isinstance(node, ast.Dict):
            for key in node.keys:
                if key is not None:
                    yield from _strings(key)
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            yield from _strings(node.value)


def _strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    for part in parts:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.lineno, part.value


def asked_for(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Classes that `isinstance` and `issubclass` are asked about, or that something is compared with."""
    for node in ast.walk(tree):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            asked = node.args[1:]
        for part in (inner for each in asked for inner in ast.walk(each)):
            if isinstance(part, ast.Name | ast.Attribute):
                yield part.lineno, part.id if isinstance(part, ast.Name) else part.attr


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


def test_every_way_to_ask_for_a_member_is_found() -> None:
    code = """
        NAMES = ("in_a_tuple", "in_another")
        NAME = "constant"
        KINDS = frozenset({"in_a_set"})
        SIZES = {"in_a_table": 3}
        if kind == "equal" or kind in ("in", "or") or isinstance(column, columns.Attribute) or type(column) is Class:
            match kind:
                case "case":
                    pass
    """
    tree = ast.parse(inspect.cleandoc(code))
    names = {"in_a_tuple", "in_another", "constant", "in_a_set", "in_a_table", "equal", "in", "or", "case"}
    assert {text for _, text in compared(tree)} == names
    assert {"Attribute", "Class"} <= {name for _, name in asked_for(tree)}


@pytest.mark.parametrize(("where", "text"), OTHER_MEANINGS)
def test_every_exception_is_needed(where: str, text: str) -> None:
    assert text in {found for _, found in compared(ast.parse((PLATFORM / where).read_text()))}
