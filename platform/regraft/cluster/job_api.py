"""Commands as jobs of a running cluster, by Ray's Job API over HTTP: submit, follow the log, stop.

The client needs nothing of the cluster but the dashboard's address and the token. Nothing secret is sent with a job: a
cluster shows a job's environment, words and files to whoever may look at it. Keys for S3 belong into the nodes' own
environment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import shlex
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from regraft.cluster.auth import header, refusal
from regraft.cluster.connect import in_site_packages, package_folder
from regraft.cluster.job_package import Parcel
from regraft.errors import ClusterError
from regraft.version import VERSION

REACH_S = 10.0
WAIT_S = 60.0
"""How long a job whose log has ended may take to say how it ended."""
LEAVE_S = 60
"""How long a job that is stopped may take to end by itself, before Ray kills it; Ray's own default is three."""
_TRIES = 6
_TERMINAL = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}


@dataclass(frozen=True)
class Ended:
    """How a job ended: Ray's word for it, the exit code of its command where it came so far, Ray's message."""

    status: str
    code: int | None
    message: str


class Cluster:
    """A running cluster's Job API; ClusterError says what keeps it from answering."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.about = reach(self.address)
        theirs = str(self.about.get("ray_version", ""))
        if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise ClusterError(
                f"the cluster runs Ray {theirs or '(it does not say which)'} and this client {ray.__version__}: use "
                "the same on both",
                where=self.address,
            )
        hush()
        self._client = JobSubmissionClient(self.address, headers=header())

    def submit(self, parcel: Parcel) -> str:
        """Send a packed command; the job's id."""
        parcel.seal()
        name = parcel.about.get("run") or parcel.about.get("name") or "job"
        id = f"regraft-{parcel.about['command']}-{name}-{uuid4().hex[:6]}"
        environment: dict[str, Any] = {
            "working_dir": str(parcel.folder),
            "excludes": ["__pycache__/", "*.pyc"],
            # Ray reads it where it watches over the job: after SIGTERM a run has a step and a checkpoint to do.
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(LEAVE_S)},
        }
        if not in_site_packages():
            environment["py_modules"] = [str(package_folder())]
        try:
            return str(
                self._client.submit_job(
                    entrypoint=f"python -m regraft.cli.jobs.entry {shlex.join(parcel.words)}",
                    submission_id=id,
                    runtime_env=environment,
                    metadata={**parcel.about, "regraft": VERSION},
                )
            )
        except Exception as error:
            raise ClusterError(f"the job was not taken: {_brief(error)}", where=self.address) from error

    def running(self, about: Mapping[str, str]) -> str | None:
        """The job that is doing this very thing already, if there is one."""
        with self._asking():
            jobs = self._client.list_jobs()
        for job in jobs:
            told = job.metadata or {}
            same = all(told.get(key) == value for key, value in about.items())
            if job.submission_id and same and job.status not in _TERMINAL:
                return str(job.submission_id)
        return None

    def stop(self, job: str) -> None:
        """End a job: Ray sends it SIGTERM, and kills it when it has not ended a minute later."""
        with self._asking():
            self._client.stop_job(job)

    def pending(self, job: str) -> str:
        """Ray's words on a job that has not begun; empty for one that has."""
        with self._asking():
            found = self._client.get_job_info(job)
        return str(found.message or "waits") if found.status == JobStatus.PENDING else ""

    def ended(self, job: str) -> Ended:
        """How a job whose log has ended did end."""
        until = time.monotonic() + WAIT_S
        while True:
            with self._asking():
                found = self._client.get_job_info(job)
            if found.status in _TERMINAL or time.monotonic() > until:
                return Ended(found.status.value, found.driver_exit_code, str(found.message or ""))
            time.sleep(0.5)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What the Job API answers wrongly, or no longer, as ClusterError."""
        try:
            yield
        except Exception as error:
            raise ClusterError(
                f"it no longer answers as it should ({_brief(error)}); a submitted job may go on, and the same "
                "command follows it",
                where=self.address,
            ) from error

    def follow(self, job: str) -> Iterator[str | None]:
        """The lines of a job's log as they come, None about once a second while none does; ends when the job has.

        It may be interrupted and asked again: the log is read by a thread of its own.
        """
        return Following(self._client, job)


def hush() -> None:
    """Keep Ray's client off the screen unless regraft logs at DEBUG: it sets its own loggers to INFO when imported."""
    level = logging.INFO if logging.getLogger("regraft").isEnabledFor(logging.DEBUG) else logging.ERROR
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(level)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(level)


class Following(Iterator[str | None]):
    """A job's log line by line; a connection that breaks is taken up where it was."""

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        self._client, self._job = client, job
        self._arrived: queue.Queue[str | Exception | None] = queue.Queue()
        self._lines: list[str] = []
        self._rest = ""
        self._seen = 0
        threading.Thread(target=self._read, name=f"regraft-follow-{job}", daemon=True).start()

    def __next__(self) -> str | None:
        while not self._lines:
            try:
                text = self._arrived.get(timeout=1.0)
            except queue.Empty:
                return None
            if isinstance(text, Exception):
                raise ClusterError(f"the log of job {self._job} can no longer be read: {_brief(text)}") from text
            if text is None:
                self._arrived.put(None)  # asked again, it has ended still
                rest, self._rest = self._rest, ""
                if not rest:
                    raise StopIteration
                return rest
            *self._lines, self._rest = (self._rest + text).split("\n")
        return self._lines.pop(0)

    def _read(self) -> None:
        for turn in range(_TRIES):
            before = self._seen
            try:
                asyncio.run(self._tail())
                self._arrived.put(None)
                return
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                if turn == _TRIES - 1 and self._seen == before:
                    self._arrived.put(error)
                    return
                time.sleep(min(2.0**turn, 15.0))
        self._arrived.put(ConnectionError("the connection broke again and again"))

    async def _tail(self) -> None:
        at = 0
        async for text in self._client.tail_job_logs(self._job):
            fresh = text[max(0, self._seen - at) :]
            at += len(text)
            self._seen = max(self._seen, at)
            if fresh:
                self._arrived.put(fresh)


def reach(address: str) -> dict[str, Any]:
    """What the cluster's dashboard says of itself; ClusterError with what to do when it does not."""
    try:
        request = urllib.request.Request(f"{address}/api/version", headers=header())
        with urllib.request.urlopen(request, timeout=REACH_S) as answer:
            found = json.loads(answer.read(100_000))
    except urllib.error.HTTPError as error:
        raise ClusterError(refusal(error.code), where=address) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ClusterError(
            f"no cluster answers there ({reason}): is its head up, and is the address that of the dashboard "
            "(http://head:8265)? `kubectl port-forward svc/...-head-svc 8265` opens a way to one on Kubernetes",
            where=address,
        ) from None
    return found if isinstance(found, dict) else {}


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
