"""Trials, packing, reports: a search from its space to its winner.

`regraft.search(spec)` is also the Python face's function, whose name this package would take as soon as any of its
modules is imported. So the package can be called as well, and does what the function does.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_face = sys.modules["regraft"].__dict__["search"]


class _Callable(ModuleType):
    """A package that answers a call as the function of its name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _face(*args, **options)


sys.modules[__name__].__class__ = _Callable
