"""Entry point of a submitted job: `python -m regraft.cli.jobs.entry COMMAND ...` in the folder that travelled with it.

Before the command runs, it checks that the code here has the client's version, and that every node sees the folders
that did not travel. Events, reply and error are written as marked lines (`job_log`), which the client shows.
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
from regraft.cluster.job_package import JOB_FILE
from regraft.cluster.visibility import check_shared
from regraft.errors import RequestError
from regraft.version import VERSION


def run(argv: Sequence[str]) -> int:
    """Check the cluster, run the command and return its exit code."""
    os.environ[SWITCH] = "1"
    # Ray ends a job by SIGTERM. Workers that train handle it themselves; before and after training it acts as an
    # interrupt, which releases the run's lease.
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as stack:
        try:
            document: dict[str, Any] = json.loads(Path(JOB_FILE).read_text(encoding="utf-8"))
            if document["regraft"] != VERSION:
                raise RequestError(
                    f"the cluster's image has regraft {VERSION} and the client {document['regraft']}: use the same on "
                    "both, or submit from a source tree, which travels with the job",
                    where="regraft",
                )
            if document["shared"]:
                stack.enter_context(connected())
                check_shared(document["shared"])
        except Exception as error:
            return failed(error)
        return console(argv)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
