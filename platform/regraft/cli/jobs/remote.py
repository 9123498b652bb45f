"""Commands that run on a cluster as a job (`--address http://head:8265`), shown here as if they ran here."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft import errors
from regraft.cli.dispatch import WORK, function
from regraft.cli.jobs import job_log
from regraft.cli.screen import Reply, Screen
from regraft.cli.train_progress import following
from regraft.contracts import Event, Progress
from regraft.errors import ClusterError, RegraftError, SpecError

if TYPE_CHECKING:
    from regraft.cluster.job_api import Cluster, JobEnd
    from regraft.cluster.job_package import JobPackage

Showing = Callable[[Screen], AbstractContextManager[Progress]]
"""Makes a sink for progress events that suits a screen."""
_PATIENT_S = 15.0
"""Seconds without a line after which the reason is shown why a job has not begun."""
_LAST = 20
"""Number of last log lines that are quoted when a job ends without a reply or an error."""
_RAY_LINES = re.compile(r"^(Running entrypoint for job |\S+ \S+\s+INFO job_manager\.py)")
"""Lines that Ray writes at the top of every job's log."""
KEYS = (
    "keys are never sent with a job: put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the environment of the "
    "cluster's nodes (Kubernetes: a secret by envFrom; else the shell that starts Ray there)"
)


def is_job_api(address: str | None) -> bool:
    """Return whether an address is that of a cluster's Job API."""
    return (address or "").startswith(("http://", "https://"))


def run_as_job(
    address: str,
    screen: Screen,
    pack: Callable[[JobPackage], None],
    *,
    follow_running: bool = True,
    shown: Showing | None = None,
) -> Reply:
    """Run the command that `pack` packs as a job of the cluster, and reply as the command would here.

    `follow_running` follows a job that does the same already instead of submitting another. `shown` displays the
    command's progress; None is the display of training.
    """
    cluster: Cluster = function(WORK["cluster"])(address)
    with packaged() as package:
        pack(package)
        found = cluster.find_running(package.metadata) if follow_running else None
        job = found or cluster.submit(package)
        screen.note(f"{'follows' if found else 'submitted'} job {job} on {cluster.address}")
        watcher = JobWatcher(cluster, job, screen, package.metadata, shown=shown)
        reply = watcher.reply()
        if watcher.detached:
            package.detach()
        return reply


@contextmanager
def packaged() -> Iterator[JobPackage]:
    """Yield an empty package in a folder of its own, which is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="regraft-job-") as folder:
        package: JobPackage = function(WORK["job package"])(Path(folder))
        try:
            yield package
        finally:
            package.close()


class JobWatcher:
    """Follows one job: shows its progress on the screen, and returns or raises what it ends with."""

    def __init__(
        self, cluster: Cluster, job: str, screen: Screen, metadata: Mapping[str, str], *, shown: Showing | None = None
    ) -> None:
        self._shown = shown or following
        self._cluster, self._job, self._screen, self._metadata = cluster, job, screen, metadata
        self._lines = cluster.follow(job)
        self._bodies: dict[str, dict[str, Any]] = {}
        """Bodies of the job's marked lines by their kind: `reply` and `error`."""
        self._last: deque[str] = deque(maxlen=_LAST)
        self._heard = time.monotonic()
        self._stopping = False
        self.detached = False
        """Whether the job continues without this command."""

    def reply(self) -> Reply:
        """Follow the job to its end; on Ctrl-C ask whether to stop it or to leave it running."""
        while True:
            try:
                with self._shown(self._screen) as progress:
                    self._follow(progress)
                return self._reply_of(self._cluster.wait_for_end(self._job))
            except KeyboardInterrupt:
                answer = "d" if self._stopping else ask_what_to_do(self._screen)
                if answer == "d":
                    return self._detach()
                if answer == "s":
                    self._stopping = True
                    self._cluster.stop(self._job)
                    self._screen.note(f"stopping job {self._job}")

    def _follow(self, progress: Progress) -> None:
        for line in self._lines:
            if line is None:
                self._show_why_pending()
                continue
            self._heard = time.monotonic()
            marked = job_log.parse(line)
            if marked is None:
                self._show_plain(line)
                continue
            kind, body = marked
            if kind != "progress":
                self._bodies[kind] = body
            elif (event := Event.parse(body)) is not None:
                progress(event)

    def _show_plain(self, line: str) -> None:
        if not line.strip() or (_RAY_LINES.search(line) and not self._screen.verbose):
            return
        self._last.append(line)
        if self._screen.verbose:
            self._screen.note(line)
        else:
            self._screen.say(line)

    def _show_why_pending(self) -> None:
        if time.monotonic() - self._heard > _PATIENT_S:
            self._heard = time.monotonic()
            if reason := self._cluster.pending(self._job):
                self._screen.note(f"the job has not begun: {reason}")

    def _reply_of(self, end: JobEnd) -> Reply:
        if self._stopping:
            return Reply({"job": self._job, "state": end.status.lower()}, code=130)
        if error := self._bodies.get("error"):
            raise rebuilt(error)
        if end.code == 0 and "reply" in self._bodies:
            return Reply(self._bodies["reply"])
        if "reply" in self._bodies and end.code:
            return Reply(self._bodies["reply"], code=end.code)
        raise ClusterError(self._why_ended(end), where=self._job)

    def _why_ended(self, end: JobEnd) -> str:
        text = "\n".join(self._last)
        if "No module named" in text and "regraft" in text:
            return (
                "the cluster's Python has no regraft: use an image with it, or submit from a source tree, which "
                "travels with the job"
            )
        if end.status == "STOPPED":
            return "the job was stopped by somebody else; the same command continues the run"
        message = end.message or "no message"
        return f"the job ended ({end.status.lower()}) without a reply or an error: {message}; {text[-800:]}"

    def _detach(self) -> Reply:
        self.detached = True
        note = self._screen.note
        note(f"job {self._job} goes on without this command; the same command follows it again")
        if store := self._metadata.get("store"):
            note(f"  regraft runs list --store {store}")
        note(f"  ray job logs --follow --address {self._cluster.address} {self._job}")
        note(f"  ray job stop --address {self._cluster.address} {self._job}")
        return Reply({"job": self._job, "address": self._cluster.address, "state": "left running"}, code=130)


def ask_what_to_do(screen: Screen) -> str:
    """Ask for s (stop the job), d (leave it running) or g (go on); d without a terminal, and on a second Ctrl-C.

    Without a terminal there is no person to answer. Such an interrupt (a CI runner that is shut down, `timeout`) is
    seldom meant for the training on the cluster.
    """
    if not (sys.stdin.isatty() and screen.terminal):
        return "d"
    try:
        while True:
            written = input("stop the job, leave it running (detach), or go on? [s/d/g] ").strip().lower()[:1]
            if written in ("s", "d", "g"):
                return written
    except (KeyboardInterrupt, EOFError):
        return "d"


def rebuilt(body: Mapping[str, Any]) -> RegraftError:
    """Return the error that ended the job, as if it had been raised here."""
    kind, message, where = str(body.get("kind")), str(body.get("message")), str(body.get("where") or "")
    cls = getattr(errors, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, RegraftError)):
        return ClusterError(f"{kind}: {message}", where)
    if cls is SpecError:
        return SpecError(tuple(message.split("\n")), where)
    if cls is errors.PermissionDenied:
        message += f"; {KEYS}"
    return cls(message, where)
