"""`regraft version`: the installed versions, for bug reports."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version

import regraft
from regraft.cli.screen import Reply, Screen

_LIBRARIES = ("torch", "transformers", "ray", "peft", "accelerate", "safetensors")


def versions_of(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return installed versions by distribution name, None for a missing one, without importing any."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def show(args: argparse.Namespace, screen: Screen) -> Reply:
    """Show the versions of regraft, Python and the main libraries (`version`)."""
    document = {"regraft": regraft.__version__, "python": platform.python_version(), **versions_of(_LIBRARIES)}
    screen.facts([(name, found or "not installed") for name, found in document.items()], indent=0)
    return Reply(document)
