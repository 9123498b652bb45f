"""A command that runs on a cluster is shown, interrupted and ended here as if it ran here."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from regraft.cli.jobs import job_log, remote
from regraft.cli.jobs.remote import JobWatcher
from regraft.cli.screen import Screen
from regraft.cluster.job_api import JobEnd
from regraft.contracts import EvaluationDone
from regraft.errors import ClusterError, DataError, PermissionDenied, RegraftError, SpecError


def line(what: str, /, **body: Any) -> str:
    return job_log.MARK + json.dumps({"kind": what, "body": body})


class Feed(Iterator[str | None]):
    """A fake log of a job; an exception among the lines is raised in its place."""

    def __init__(self, lines: list[Any]) -> None:
        self._lines = lines

    def __next__(self) -> str | None:
        if not self._lines:
            raise StopIteration
        line = self._lines.pop(0)
        if isinstance(line, BaseException) or line is KeyboardInterrupt:
            raise line
        return line if line is None else str(line)


class FakeCluster:
    """A fake cluster with one job, whose log is given."""

    address = "http://head:8265"

    def __init__(self, lines: list[Any], end: JobEnd) -> None:
        self.lines, self.end = lines, end
        self.stopped: list[str] = []

    def follow(self, job: str) -> Feed:
        return Feed(self.lines)

    def wait_for_end(self, job: str) -> JobEnd:
        return self.end

    def stop(self, job: str) -> None:
        self.stopped.append(job)

    def pending(self, job: str) -> str:
        return "no node has room"


DONE = JobEnd("SUCCEEDED", 0, "")


def watch(cluster: FakeCluster, screen: Screen | None = None) -> JobWatcher:
    return JobWatcher(cluster, "job-1", screen or Screen(), {"store": "s3://b/x"})  # type: ignore[arg-type]


def test_progress_lines_and_the_reply_come_out_as_they_would_here(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        "Running entrypoint for job job-1: python -m regraft.cli.jobs.entry",
        line("progress", event="note", message="left out 3 rows"),
        None,
        "tiny@v1 is registered",
        line("reply", version="v1"),
    ]
    reply = watch(FakeCluster(lines, DONE)).reply()
    assert (dict(reply.document), reply.code) == ({"version": "v1"}, 0)
    assert capsys.readouterr().out == "left out 3 rows\ntiny@v1 is registered\n"


def test_a_command_with_a_progress_of_its_own_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    @contextmanager
    def shown(screen: Screen) -> Iterator[Any]:
        yield seen.append

    event = EvaluationDone(3, 1.5, {"accuracy": 0.5}, best=True)
    lines = [
        line("progress", **event.document()),
        line("progress", event="something new"),
        line("progress", event="note"),
        line("reply", version="v1"),
    ]
    JobWatcher(FakeCluster(lines, DONE), "job-1", Screen(), {}, shown=shown).reply()  # type: ignore[arg-type]
    assert seen == [event], "what this edition cannot read is left out"


@pytest.mark.parametrize(
    ("kind", "message", "expected", "code"),
    [
        ("DataError", "row 3", DataError, 2),
        ("SpecError", "a: wrong\nb: wrong", SpecError, 2),
        ("PermissionDenied", "no keys", PermissionDenied, 1),
        ("ZeroDivisionError", "by zero", ClusterError, 1),
    ],
)
def test_an_error_there_is_the_same_error_here(
    kind: str, message: str, expected: type[RegraftError], code: int
) -> None:
    wording = line("error", kind=kind, message=message, where="x")
    with pytest.raises(expected) as caught:
        watch(FakeCluster([wording], JobEnd("FAILED", code, ""))).reply()
    assert caught.value.exit_code == code
    assert message.split("\n")[0] in str(caught.value)
    assert ("environment of the" in str(caught.value)) == (kind == "PermissionDenied")


@pytest.mark.parametrize(
    ("result", "status", "wording"),
    [
        ("/usr/bin/python: No module named regraft", "FAILED", "use an image with it"),
        ("Killed", "FAILED", "without a reply or an error"),
        ("", "STOPPED", "stopped by somebody else"),
    ],
)
def test_a_job_that_ends_without_a_word_is_reported_by_its_last_lines(result: str, status: str, wording: str) -> None:
    with pytest.raises(ClusterError, match=wording):
        watch(FakeCluster([result], JobEnd(status, None, "exit 137"))).reply()


def test_without_a_terminal_an_interrupt_leaves_the_job_and_says_how_to_find_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = FakeCluster([KeyboardInterrupt], DONE)
    reply = watch(cluster).reply()
    assert reply.code == 130 and not cluster.stopped
    out = capsys.readouterr().out
    assert "ray job stop --address http://head:8265 job-1" in out and "--store s3://b/x" in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "stopped", "code"), [("s\n", ["job-1"], 130), ("d\n", [], 130), ("what\ng\n", [], 0), ("", [], 130)]
)
def test_on_a_terminal_an_interrupt_asks(
    typed: str, stopped: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    screen = Screen()
    screen.terminal = True
    monkeypatch.setattr(remote, "following", lambda screen: _Silent())
    cluster = FakeCluster([KeyboardInterrupt, line("reply", version="v1")], DONE)
    reply = watch(cluster, screen).reply()
    assert (reply.code, cluster.stopped) == (code, stopped)


class _Silent:
    def __enter__(self) -> Any:
        return lambda event: None

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "text", ["@regraft ", "@regraft {", '@regraft {"kind": 1}', '@regraft {"kind": "a", "body": 3}']
)
def test_a_line_that_was_cut_is_no_event(text: str) -> None:
    assert job_log.parse(text) is None
