"""The members of the two families, found by listing their folders."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

from regraft.adaptation import corrections as corrections_folder
from regraft.adaptation import validators as validators_folder
from regraft.adaptation.correction import Correction
from regraft.adaptation.validator import Validator


def validators() -> dict[str, Validator]:
    """Return a validator of each file, by name."""
    return {item.name: item() for item in _classes(validators_folder, Validator)}


def corrections() -> dict[str, Correction]:
    """Return a correction of each file, by name."""
    return {item.name: item() for item in _classes(corrections_folder, Correction)}


def _classes(folder: ModuleType, root: type) -> list[Any]:
    """Return the subclass of `root` that each file of the folder defines, in the order of the files' names."""
    found = []
    for module in sorted(pkgutil.iter_modules(folder.__path__), key=lambda item: item.name):
        loaded = importlib.import_module(f"{folder.__name__}.{module.name}")
        found += [
            item
            for item in vars(loaded).values()
            if inspect.isclass(item) and issubclass(item, root) and item.__module__ == loaded.__name__
        ]
    return found
