"""Context managers that keep the output of Ray's processes and libraries off the screen."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import ray
from ray.data import DataContext

from regraft.cluster.raylet_output import RayletFilter

LEVEL = "RAY_BACKEND_LOG_LEVEL"


@contextmanager
def quiet_start() -> Iterator[None]:
    """Start Ray with the log of its core turned off, unless regraft logs at DEBUG.

    For every pool of Ray Data, the core would warn that lost arguments of its actors cannot be recovered. But they are
    lost only together with this process. Ray reads the level when it starts, and prints it to standard error.
    """
    if ray.is_initialized() or logging.getLogger("regraft").isEnabledFor(logging.DEBUG):
        yield
        return
    before = os.environ.get(LEVEL)
    os.environ.setdefault(LEVEL, "fatal")
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        if before is None:
            os.environ.pop(LEVEL, None)


@contextmanager
def quiet_data() -> Iterator[None]:
    """Keep Ray Data's progress bars and reports off the screen, unless regraft logs at DEBUG."""
    if logging.getLogger("regraft").isEnabledFor(logging.DEBUG):
        yield
        return
    context, logger = DataContext.get_current(), logging.getLogger("ray.data")
    names = ("enable_progress_bars", "print_on_execution_start", "raise_original_map_exception")
    before, level = {name: getattr(context, name) for name in names}, logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True  # the actor's own error, without a report
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(RayletFilter(sys.stdout)):
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)
