"""What a submitted job runs: `python -m regraft.cli.jobs.entry COMMAND ...` in the folder that travelled with it.

Before the command it is checked that the code here is the client's version, and that every node sees the folders that
did not travel. What happens is told in marked lines (`job_log`), which the client shows.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from regraft.cli import console, failed
from regraft.cli.jobs.job_log import SWITCH
from regraft.cluster.connect import connected
from regraft.cluster.job_package import LETTER
from regraft.cluster.visibility import check_shared
from regraft.errors import RequestError
from regraft.version import VERSION


def run(argv: Sequence[str]) -> int:
    """Check, then run the command; its exit code."""
    os.environ[SWITCH] = "1"
    # Ray ends a job by SIGTERM. Workers that train have their own answer to it; before and after, it is an interrupt,
    # which lets go of the run's lease.
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as stack:
        try:
            letter: dict[str, Any] = json.loads(Path(LETTER).read_text(encoding="utf-8"))
            if letter["regraft"] != VERSION:
                raise RequestError(
                    f"the cluster's image has regraft {VERSION} and the client {letter['regraft']}: use the same on "
                    "both, or submit from a source tree, which travels with the job",
                    where="regraft",
                )
            if letter["shared"]:
                stack.enter_context(connected())
                check_shared(letter["shared"])
        except Exception as error:
            return failed(error)
        return console(argv)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
