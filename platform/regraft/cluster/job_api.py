"""Commands as jobs of a running cluster, through Ray's Job API over HTTP: submit, follow the log, stop.

The client needs only the dashboard's address and the token. Nothing secret is sent with a job: a cluster shows a job's
environment, arguments and files to everyone who can read its dashboard. Keys for S3 belong in the nodes' environment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import re
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

from regraft.cluster.auth import auth_header, status_help
from regraft.cluster.connect import in_site_packages, package_folder
from regraft.cluster.job_package import JobPackage
from regraft.errors import ClusterError
from regraft.version import VERSION

CONNECT_S = 10.0
WAIT_S = 60.0
"""Seconds in which Ray must report how a job ended whose log has ended."""
LEAVE_S = 60
"""Seconds that a stopped job has to end before Ray kills it; Ray's own default is three."""
_TRIES = 6
_TERMINAL = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}


@dataclass(frozen=True)
class JobEnd:
    """The end of a job: Ray's status, the exit code of its command (None if it never ran), and Ray's message."""

    status: str
    code: int | None
    message: str


class Cluster:
    """The Job API of a running cluster; its methods raise ClusterError if the cluster does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        theirs = str(version_info(self.address).get("ray_version", ""))
        if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise ClusterError(
                f"the cluster runs Ray {theirs or '(unknown)'} and this client {ray.__version__}: use the same on both",
                where=self.address,
            )
        quiet_client_loggers()
        self._client = JobSubmissionClient(self.address, headers=auth_header())

    def submit(self, package: JobPackage) -> str:
        """Send a packed command and return the job's id."""
        package.write_job_file()
        name = package.metadata.get("run") or package.metadata.get("name") or "job"
        id = f"regraft-{package.metadata['command']}-{name}-{uuid4().hex[:6]}"
        environment: dict[str, Any] = {
            "working_dir": str(package.folder),
            "excludes": ["__pycache__/", "*.pyc"],
            # Ray's job supervisor reads it: after SIGTERM a run has a step and a checkpoint to complete.
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(LEAVE_S)},
        }
        if not in_site_packages():
            environment["py_modules"] = [str(package_folder())]
        try:
            return str(
                self._client.submit_job(
                    entrypoint=f"python -m regraft.cli.jobs.entry {shlex.join(package.arguments)}",
                    submission_id=id,
                    runtime_env=environment,
                    metadata={**package.metadata, "regraft": VERSION},
                )
            )
        except Exception as error:
            raise ClusterError(f"the job was not accepted: {_brief(error)}", where=self.address) from error

    def find_running(self, metadata: Mapping[str, str]) -> str | None:
        """Return the id of the job that already does what the metadata describe; None if there is none."""
        with self._cluster_errors():
            jobs = self._client.list_jobs()
        for job in jobs:
            known = job.metadata or {}
            same = all(known.get(key) == value for key, value in metadata.items())
            if job.submission_id and same and job.status not in _TERMINAL:
                return str(job.submission_id)
        return None

    def stop(self, job: str) -> None:
        """End a job: Ray sends it SIGTERM, and kills it if it has not ended a minute later."""
        with self._cluster_errors():
            self._client.stop_job(job)

    def pending(self, job: str) -> str:
        """Return why a job has not begun, as Ray words it; empty once it has."""
        with self._cluster_errors():
            found = self._client.get_job_info(job)
        return str(found.message or "waits") if found.status == JobStatus.PENDING else ""

    def wait_for_end(self, job: str) -> JobEnd:
        """Wait until Ray reports how a job ended whose log has ended."""
        until = time.monotonic() + WAIT_S
        while True:
            with self._cluster_errors():
                found = self._client.get_job_info(job)
            if found.status in _TERMINAL or time.monotonic() > until:
                return JobEnd(found.status.value, found.driver_exit_code, str(found.message or ""))
            time.sleep(0.5)

    @contextmanager
    def _cluster_errors(self) -> Iterator[None]:
        """Raise ClusterError for any failure of the Job API."""
        try:
            yield
        except Exception as error:
            raise ClusterError(
                f"it no longer answers as it should ({_brief(error)}); a submitted job may go on, and the same "
                "command follows it",
                where=self.address,
            ) from error

    def follow(self, job: str) -> Iterator[str | None]:
        """Yield the lines of a job's log as they come, and None about once a second while there are none.

        It ends when the job has ended. A separate thread reads the log, so an interrupted iteration can be resumed.
        """
        return JobLog(self._client, job)


def quiet_client_loggers() -> None:
    """Keep Ray's client off the screen unless regraft logs at DEBUG: it sets its own loggers to INFO when imported."""
    level = logging.INFO if logging.getLogger("regraft").isEnabledFor(logging.DEBUG) else logging.ERROR
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(level)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(level)


class JobLog(Iterator[str | None]):
    """A job's log line by line; after a broken connection it continues where it was."""

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        self._client, self._job = client, job
        self._arrived: queue.Queue[str | Exception | None] = queue.Queue()
        self._lines: list[str] = []
        self._partial = ""
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
                self._arrived.put(None)  # for the next call, which must find the end too
                partial, self._partial = self._partial, ""
                if not partial:
                    raise StopIteration
                return partial
            *self._lines, self._partial = (self._partial + text).split("\n")
        return self._lines.pop(0)

    def _read(self) -> None:
        for turn in range(_TRIES):
            before = self._seen
            try:
                asyncio.run(self._stream())
                self._arrived.put(None)
                return
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                if turn == _TRIES - 1 and self._seen == before:
                    self._arrived.put(error)
                    return
                time.sleep(min(2.0**turn, 15.0))
        self._arrived.put(ConnectionError("the connection broke again and again"))

    async def _stream(self) -> None:
        at = 0
        async for text in self._client.tail_job_logs(self._job):
            fresh = text[max(0, self._seen - at) :]
            at += len(text)
            self._seen = max(self._seen, at)
            if fresh:
                self._arrived.put(fresh)


def version_info(address: str) -> dict[str, Any]:
    """Return what the cluster's dashboard reports at `/api/version`. Raises ClusterError with what to do."""
    try:
        request = urllib.request.Request(f"{address}/api/version", headers=auth_header())
        with urllib.request.urlopen(request, timeout=CONNECT_S) as answer:
            found = json.loads(answer.read(100_000))
    except urllib.error.HTTPError as error:
        raise ClusterError(status_help(error.code), where=address) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ClusterError(
            f"no cluster answers there ({reason}): is its head up, and is the address that of the dashboard "
            "(http://head:8265)? `kubectl port-forward svc/...-head-svc 8265` opens a way to one on Kubernetes",
            where=address,
        ) from None
    return found if isinstance(found, dict) else {}


def _brief(error: BaseException) -> str:
    if refused := re.search(r"Connection refused|timed out|Connection reset|Remote end closed", str(error)):
        return refused[0][0].lower() + refused[0][1:]
    return " ".join(str(error).split())[:500] or type(error).__name__
