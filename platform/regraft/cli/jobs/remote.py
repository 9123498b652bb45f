"""A command that runs on a cluster, shown here as if it ran here: `--address http://head:8265`."""

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
    from regraft.cluster.job_api import Cluster, Ended
    from regraft.cluster.job_package import Parcel

Showing = Callable[[Screen], AbstractContextManager[Progress]]
"""Makes a sink for progress events that suits a screen."""
_PATIENT_S = 15.0
_LAST = 20
"""Lines of the log that are told when a job ends without a word of ours."""
_OF_RAY = re.compile(r"^(Running entrypoint for job |\S+ \S+\s+INFO job_manager\.py)")
"""What Ray writes at the top of every job's log."""
KEYS = (
    "keys are never sent with a job: put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the environment of the "
    "cluster's nodes (Kubernetes: a secret by envFrom; else the shell that starts Ray there)"
)


def elsewhere(address: str | None) -> bool:
    """Whether an address is a cluster's Job API."""
    return (address or "").startswith(("http://", "https://"))


def there(
    address: str,
    screen: Screen,
    pack: Callable[[Parcel], None],
    *,
    again: bool = True,
    shown: Showing | None = None,
) -> Reply:
    """Run the command that `pack` packs as a job of the cluster, and answer as the command would here.

    `again` follows the job that is doing this very thing already, where there is one; `shown` is how the command shows
    its progress, where that is not the usual line.
    """
    cluster: Cluster = function(WORK["cluster"])(address)
    with parcelled() as parcel:
        pack(parcel)
        found = cluster.running(parcel.about) if again else None
        job = found or cluster.submit(parcel)
        screen.note(f"{'follows' if found else 'submitted'} job {job} on {cluster.address}")
        watch = Watch(cluster, job, screen, parcel.about, shown)
        reply = watch.reply()
        if watch.left:
            parcel.leave()
        return reply


@contextmanager
def parcelled() -> Iterator[Parcel]:
    """A parcel in a folder of its own, both gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="regraft-job-") as folder:
        parcel: Parcel = function(WORK["parcel"])(Path(folder))
        try:
            yield parcel
        finally:
            parcel.close()


class Watch:
    """One job being followed: its progress on the screen, its end as a reply or an error."""

    def __init__(
        self, cluster: Cluster, job: str, screen: Screen, about: Mapping[str, str], shown: Showing | None = None
    ) -> None:
        self._shown = shown or following
        self._cluster, self._job, self._screen, self._about = cluster, job, screen, about
        self._feed = cluster.follow(job)
        self._said: dict[str, dict[str, Any]] = {}
        self._last: deque[str] = deque(maxlen=_LAST)
        self._heard = time.monotonic()
        self._stopping = False
        self.left = False
        """Whether the job goes on without us."""

    def reply(self) -> Reply:
        """Follow to the end; on Ctrl-C ask whether to stop the job or to leave it."""
        while True:
            try:
                with self._shown(self._screen) as progress:
                    self._follow(progress)
                return self._ended(self._cluster.ended(self._job))
            except KeyboardInterrupt:
                answer = "d" if self._stopping else asked(self._screen)
                if answer == "d":
                    return self._left()
                if answer == "s":
                    self._stopping = True
                    self._cluster.stop(self._job)
                    self._screen.note(f"stopping job {self._job}")

    def _follow(self, progress: Progress) -> None:
        for line in self._feed:
            if line is None:
                self._wait()
                continue
            self._heard = time.monotonic()
            marked = job_log.parse(line)
            if marked is None:
                self._plain(line)
                continue
            kind, body = marked
            if kind != "progress":
                self._said[kind] = body
            elif (event := Event.parse(body)) is not None:
                progress(event)

    def _plain(self, line: str) -> None:
        if not line.strip() or (_OF_RAY.search(line) and not self._screen.verbose):
            return
        self._last.append(line)
        if self._screen.verbose:
            self._screen.note(line)
        else:
            self._screen.say(line)

    def _wait(self) -> None:
        if time.monotonic() - self._heard > _PATIENT_S:
            self._heard = time.monotonic()
            if told := self._cluster.pending(self._job):
                self._screen.note(f"the job has not begun: {told}")

    def _ended(self, end: Ended) -> Reply:
        if self._stopping:
            return Reply({"job": self._job, "state": end.status.lower()}, code=130)
        if error := self._said.get("error"):
            raise rebuilt(error)
        if end.code == 0 and "reply" in self._said:
            return Reply(self._said["reply"])
        if "reply" in self._said and end.code:
            return Reply(self._said["reply"], code=end.code)
        raise ClusterError(self._untold(end), where=self._job)

    def _untold(self, end: Ended) -> str:
        text = "\n".join(self._last)
        if "No module named" in text and "regraft" in text:
            return (
                "the cluster's Python has no regraft: use an image with it, or submit from a source tree, which "
                "travels with the job"
            )
        if end.status == "STOPPED":
            return "the job was stopped by somebody else; the same command continues the run"
        return f"the job ended ({end.status.lower()}) without saying why: {end.message or 'no message'}; {text[-800:]}"

    def _left(self) -> Reply:
        self.left = True
        say = self._screen.note
        say(f"job {self._job} goes on without this command; the same command follows it again")
        if store := self._about.get("store"):
            say(f"  regraft runs list --store {store}")
        say(f"  ray job logs --follow --address {self._cluster.address} {self._job}")
        say(f"  ray job stop --address {self._cluster.address} {self._job}")
        return Reply({"job": self._job, "address": self._cluster.address, "state": "left running"}, code=130)


def asked(screen: Screen) -> str:
    """s: stop the job, d: leave it running, g: go on; d where nobody can be asked, and on a second Ctrl-C.

    What interrupts a command without a terminal (a CI runner that is shut down, `timeout`) seldom means the training
    on the cluster, which only a person can tell.
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


def rebuilt(told: Mapping[str, Any]) -> RegraftError:
    """The error that ended the job, as if it had been raised here."""
    kind, message, where = str(told.get("kind")), str(told.get("message")), str(told.get("where") or "")
    kind = (errors.new_name(f"regraft.errors.{kind}") or kind).rpartition(".")[2]  # a job of the previous edition
    cls = getattr(errors, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, RegraftError)):
        return ClusterError(f"{kind}: {message}", where)
    if cls is SpecError:
        return SpecError(tuple(message.split("\n")), where)
    if cls is errors.PermissionDenied:
        message += f"; {KEYS}"
    return cls(message, where)
