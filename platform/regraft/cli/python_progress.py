"""The display of `regraft.train` and `regraft.search` in a terminal or a notebook, as the commands have it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from regraft.cli import search, search_progress, train, train_progress
from regraft.cli.screen import Screen
from regraft.contracts import Progress

if TYPE_CHECKING:  # both import torch, and a wrong spec is to be refused before that
    from regraft.training.registration import Outcome
    from regraft.tuning.driver.finish import SearchOutcome


def is_watched() -> bool:
    """Return whether somebody reads the output as it appears: in a terminal, or in a cell of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return (shell is not None and shell() is not None) or sys.stdout.isatty()


def train_shown(run: Callable[[Progress | None], Outcome]) -> Outcome:
    """Call `run` with a display of its progress if somebody watches, and show its result."""
    if not is_watched():
        return run(None)
    screen = Screen()
    with train_progress.following(screen) as progress:
        outcome = run(progress)
    train.show_result(outcome, screen)
    return outcome


def search_shown(run: Callable[[Progress | None], SearchOutcome]) -> SearchOutcome:
    """Call `run` with a display of its progress if somebody watches, and show its result."""
    if not is_watched():
        return run(None)
    screen = Screen()
    with search_progress.following(screen) as progress:
        outcome = run(progress)
    search.show_result(outcome, screen)
    return outcome
