"""A driver that trains a spec on a cluster as the command line does, and records the rows of each step.

python counted_driver.py SPEC.json OPTIONS.json ADDRESS: options are `journal` (a file), `hold` (steps after which to
wait until the run had notice to leave), `kill` ({step: rank}: the node of that rank dies right after that step, once,
by a marker file in `markers`), `nap` (seconds to sleep after each step), `quick` (seconds after which to grow).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from regraft.cluster import attempt_monitor, train
from regraft.cluster.ray_harness import RayHarness
from regraft.errors import RegraftError
from regraft.spec.run import RunSpec
from regraft.training.job import Job
from regraft.training.loop import fit


def main(written: dict[str, Any], options: dict[str, Any], address: str) -> int:
    """Train, and print the outcome or the error as the last line of standard output."""

    class Counted(RayHarness):
        """Writes one line for each step, and dies at the step that is configured."""

        def consumed(self, step: int, rows: Any) -> None:
            if self.first:
                with Path(options["journal"]).open("a") as file:
                    file.write(f"{os.getpid()} {step} {' '.join(map(str, rows.tolist()))}\n")
            marker = Path(options.get("markers", ".")) / f"killed-{step}"
            if options.get("kill", {}).get(str(step)) == self.rank and not marker.exists():
                marker.touch()
                for process in (os.getppid(), os.getpid()):  # the raylet, without which the node is dead
                    os.kill(process, signal.SIGKILL)
            while step in options.get("hold", ()) and self.first and not self.notice:
                time.sleep(0.1)
            time.sleep(options.get("nap", 0.0))

    def work(config: dict[str, Any]) -> bool:
        document = config["job"]
        job = Job(**{**document, "labels": tuple(document["labels"])})
        return fit(job, Counted(config["mailbox"])).finished

    train.work = work
    attempt_monitor.GROW_S = options.get("quick", attempt_monitor.GROW_S)
    attempt_monitor.WAIT_S = min(attempt_monitor.WAIT_S, 3.0)

    def write(document: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(document, default=str) + "\n")
        sys.stdout.flush()

    try:
        outcome = train.train(RunSpec.resolve(written), progress=lambda event: write(event.document()), address=address)
    except RegraftError as error:
        write({"event": "error", "kind": error.kind, "message": str(error)})
        return error.exit_code
    write({"event": "outcome", **outcome.document()})
    return 0


if __name__ == "__main__":
    sys.exit(main(*(json.loads(Path(path).read_text()) for path in sys.argv[1:3]), sys.argv[3]))
