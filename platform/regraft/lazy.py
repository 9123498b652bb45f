"""Modules that are read from disk when they are first needed: a command that only hands work on never needs them."""

from __future__ import annotations

import importlib
from typing import Any


class Later:
    """A module by its name, imported when it is first asked for something."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)
