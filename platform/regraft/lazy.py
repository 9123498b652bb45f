"""Modules that are imported on first use, so that commands that do not need them start faster."""

from __future__ import annotations

import importlib
from typing import Any


class Later:
    """A module by its name, imported when one of its attributes is first read."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)
