"""The display of `train`, `search`, `adapt` and `select` of the package in a terminal or a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from regraft.cli import adapt, auto, search, search_progress, select, train, train_progress
from regraft.cli.screen import Screen
from regraft.contracts import Progress

if TYPE_CHECKING:  # both import torch, and a wrong spec is to be refused before that
    from pathlib import Path

    from regraft.adaptation.outcome import AdaptOutcome
    from regraft.automatic.outcome import AutoOutcome
    from regraft.automatic.request import AutoAsked
    from regraft.selection.outcome import SelectOutcome
    from regraft.training.registration import Outcome
    from regraft.tuning.driver.finish import SearchOutcome

R = TypeVar("R")


def is_watched() -> bool:
    """Return whether somebody reads the output as it appears: in a terminal, or in a cell of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return (shell is not None and shell() is not None) or sys.stdout.isatty()


def train_shown(run: Callable[[Progress | None], Outcome]) -> Outcome:
    """Call `run` with a display of its progress if somebody watches, and show its result."""
    return _with_display(run, train_progress.following, train.show_result)


def search_shown(run: Callable[[Progress | None], SearchOutcome]) -> SearchOutcome:
    """Call `run` with a display of its progress if somebody watches, and show its result."""
    return _with_display(run, search_progress.following, search.show_result)


def adapt_shown(run: Callable[[Progress | None], AdaptOutcome]) -> AdaptOutcome:
    """Call `run` with a display of its progress if somebody watches, and show its result."""
    return _with_display(run, adapt.following, adapt.show_result)


def auto_called(data: str | Path, asked: AutoAsked, progress: Progress | None) -> AutoOutcome:
    """Make a model of data as `regraft.auto` is asked to, with a display if somebody watches and reads no events."""
    from regraft.automatic.local import auto_here
    from regraft.automatic.request import auto_request

    request = auto_request(str(data), asked)
    if progress is not None:
        return auto_here(request, progress)
    return _with_display(partial(auto_here, request), auto.following, auto.show_result)


def select_shown(run: Callable[[Progress | None], SelectOutcome]) -> SelectOutcome:
    """Call `run` with a display of its progress if somebody watches, and show its result."""
    return _with_display(run, select.following, select.show_result)


def _with_display(
    run: Callable[[Progress | None], R],
    following: Callable[[Screen], AbstractContextManager[Progress]],
    show_result: Callable[[R, Screen], None],
) -> R:
    if not is_watched():
        return run(None)
    screen = Screen()
    with following(screen) as progress:
        outcome = run(progress)
    show_result(outcome, screen)
    return outcome
