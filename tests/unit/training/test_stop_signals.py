"""A run that is asked to stop ends at a step with a checkpoint, and continues later as if it had not stopped."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from regraft.contracts import Event, Note, Stepped
from regraft.errors import Diverged, Stopped
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs, parse_event
from regraft.training import event_log, stop_signals
from regraft.training.session import train_local
from regraft.training.stop_signals import StopNotice
from support.tiny import document


def delta(store: str) -> bytes:
    opened = open_store(store)
    return opened.get(f"{Registry(opened).version('tiny').prefix}delta.safetensors")


class AsksToStop:
    """Progress that asks the run to stop after a step, and waits until the loop has seen it."""

    def __init__(self, spec: RunSpec, step: int, seen: Any) -> None:
        self._runs, self._run, self._step, self._seen = Runs(open_store(spec.store)), spec.run, step, seen

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.step == self._step:
            self._runs.request_stop(self._run)
            assert self._seen(), "the loop did not look"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A driver that looks a hundred times a second; the function waits until it has found something."""
    given = threading.Event()
    give = StopNotice.give
    monkeypatch.setattr(stop_signals, "CHECK_S", 0.01)
    monkeypatch.setattr(StopNotice, "give", lambda self, reason: (give(self, reason), given.set()))
    return lambda: given.wait(10)


def test_a_stopped_run_has_a_checkpoint_of_that_step_and_ends_bit_identical_later(tmp_path: Path, quick: Any) -> None:
    written = document(tmp_path, checkpoint_steps=5)
    straight = RunSpec.resolve(written | {"store": str(tmp_path / "straight")})
    train_local(straight)
    spec = RunSpec.resolve(written)
    with pytest.raises(Stopped, match=r"runs stop.*same command goes on"):
        train_local(spec, progress=AsksToStop(spec, 3, quick))
    store = open_store(spec.store)
    found = Runs(store).info(spec.run)
    assert (found.state, found.step) == ("stopped", 4), "the step after the wish"
    assert Checkpoints(store, spec.run).listed()[-1].step == 4
    assert Registry(store).models() == []
    assert train_local(spec).version == "v1"
    assert Runs(store).info(spec.run).state == "registered"
    assert delta(spec.store) == delta(straight.store)


def test_a_wish_of_last_time_does_not_stop_the_next_attempt(tmp_path: Path) -> None:
    spec = RunSpec.resolve(document(tmp_path, epochs=1))
    Runs(open_store(spec.store)).request_stop(spec.run)
    assert train_local(spec).version == "v1"


def test_what_a_run_said_is_in_the_store_over_all_attempts(tmp_path: Path, quick: Any) -> None:
    spec = RunSpec.resolve(document(tmp_path))
    with pytest.raises(Stopped):
        train_local(spec, progress=AsksToStop(spec, 3, quick))
    train_local(spec)
    text = Runs(open_store(spec.store)).read(spec.run, "log.jsonl").decode()
    events = [parse_event(line) for line in text.splitlines()]
    kinds = [event["event"] for event in events if event is not None]
    assert None not in events
    assert kinds.count("start") == 2 and kinds.count("eval") == 2 and kinds[-1] == "register"
    assert kinds.index("end") < kinds.index("resume")


def test_a_secret_of_the_environment_does_not_reach_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-secret-key")
    store = open_store(str(tmp_path))
    events = event_log.EventLog()
    with pytest.raises(Diverged), events.of(Runs(store), "r"):
        events(Note("it is canary-of-the-secret-key, at http://user:word@host/x"))
        raise Diverged("said canary-of-the-secret-key")
    text = Runs(store).read("r", "log.jsonl").decode()
    assert "canary" not in text and "user:word" not in text
    assert text.count("***") == 3


def test_the_log_is_bounded_and_loses_step_lines_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MOST_LINES", 5)
    monkeypatch.setattr(event_log, "STEP_S", 0.0)
    runs, events = Runs(open_store(str(tmp_path))), event_log.EventLog()
    with events.of(runs, "r"):
        events(Note("first"))
        for step in range(20):
            events(Stepped(step))
        events(Note("m" * 10**6))
    lines = [json.loads(line) for line in runs.read("r", "log.jsonl").decode().splitlines()]
    assert [line["event"] for line in lines] == ["note", "step", "step", "step", "note"]
    assert os.path.getsize(tmp_path / "runs" / "r" / "log.jsonl") < 5 * 2500


def test_a_log_that_was_cut_keeps_its_whole_lines(tmp_path: Path) -> None:
    runs = Runs(open_store(str(tmp_path)))
    runs.write("r", "log.jsonl", b'{"event": "note", "message": "kept"}\n{"event": "no')
    events = event_log.EventLog()
    with events.of(runs, "r"):
        events(Note("new"))
    lines = [json.loads(line)["message"] for line in runs.read("r", "log.jsonl").decode().splitlines()]
    assert lines == ["kept", "new"]
