"""How long files and functions are, how many parameters they take, and whether they are documented."""

from __future__ import annotations

import ast

from house.sources import CODE, Function, length, methods_and_functions, module_name, tree

MOST_PARAMETERS = 5
MOST_POSITIONAL = 4
FACE = {
    "regraft.adapt",
    "regraft.auto",
    "regraft.evaluate",
    "regraft.predict",
    "regraft.search",
    "regraft.select",
    "regraft.teach",
    "regraft.train",
}
"""Functions of the Python face, whose options are the command line's."""


def parameters(function: Function) -> tuple[int, int]:
    """(all, positional) parameters of a function, without `self` and `cls`."""
    positional = [item.arg for item in (*function.args.posonlyargs, *function.args.args)]
    own = len(positional) - (positional[:1] in (["self"], ["cls"]))
    return own + len(function.args.kwonlyargs), own


def test_functions_are_short() -> None:
    lengths = sorted(
        (length(function), f"{module_name(path)}.{name}")
        for path in CODE
        for name, function in methods_and_functions(path)
    )
    assert lengths[-1][0] <= 50, lengths[-1]
    assert lengths[int(0.9 * len(lengths))][0] <= 20


def test_functions_take_few_parameters() -> None:
    wrong = {}
    for path in CODE:
        for name, function in methods_and_functions(path):
            every, positional = parameters(function)
            full = f"{module_name(path)}.{name}"
            if full not in FACE and (every > MOST_PARAMETERS or positional > MOST_POSITIONAL):
                wrong[full] = (every, positional)
    assert wrong == {}


def test_public_functions_and_classes_are_documented() -> None:
    every, missing = 0, []
    for path in CODE:
        assert ast.get_docstring(tree(path)) or not tree(path).body, f"{path} has no docstring"
        for name, function in methods_and_functions(path):
            outer, _, _ = name.rpartition(".")
            if any(part.startswith("_") for part in name.split(".")) or outer[:1].islower():
                continue
            every += 1
            if not ast.get_docstring(function):
                missing.append(f"{module_name(path)}.{name}")
    assert len(missing) <= 0.05 * every, missing
