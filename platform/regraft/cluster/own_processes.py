"""The processes of a Ray that a command starts: all of them end with it, also where its start is interrupted.

Ray gives its raylet one second to end, then kills it. On a busy machine that is too short: the raylet's agents would
stay for a minute. Where `ray.init` is interrupted, Ray ends only what it has registered so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import ray

PATIENCE_S = 1.0
"""Seconds that processes have to end by themselves after Ray was shut down."""
_RAY = str(Path(ray.__file__).parent)


class OwnProcesses:
    """Ray's processes that this process starts from now on, and all below them."""

    def __init__(self) -> None:
        self._before = {child.pid for child in psutil.Process().children()}

    def end(self) -> None:
        """Disconnect from Ray; end one that was started here, with all that it has started."""
        started = list(self._started())
        connected = ray.is_initialized()
        if not connected:  # its start was interrupted: what is held cannot start more
            for process in started:
                with suppress(psutil.Error):
                    process.suspend()
        found = with_children(started)
        try:
            if connected:
                ray.shutdown()
                _, found = psutil.wait_procs(found, timeout=PATIENCE_S)
        finally:
            for process in found:
                with suppress(psutil.Error):  # most have ended; psutil kills no other process of the same number
                    process.kill()
            if started and not connected:
                with suppress(Exception):  # what it knows of a Ray that was half started
                    ray.shutdown()

    def _started(self) -> Iterator[psutil.Process]:
        """Yield Ray's own processes among the children of this process."""
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.pid not in self._before and _RAY in " ".join(child.cmdline()):
                    yield child


def with_children(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return processes and all below them; those that have ended are left out."""
    found: list[psutil.Process] = []
    for process in processes:
        with suppress(psutil.Error):
            found += [process, *process.children(recursive=True)]
    return found
