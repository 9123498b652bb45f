"""A driver that receives SIGTERM raises `Stopped`, at any moment of its workers' lives."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from ray.train import ScalingConfig

from regraft.cluster import train
from regraft.cluster.attempt_monitor import AttemptMonitor, StopRequest
from regraft.errors import Stopped
from regraft.spec.run import RunSpec
from regraft.training.job import Job
from regraft.training.stop_signals import StopNotice
from support.tiny import document


def leave_to_grow(*_: Any, **__: Any) -> StopRequest:
    """Workers that were stopping for another reason when the signal came."""
    signal.raise_signal(signal.SIGTERM)
    return StopRequest("there is room for more workers", restarts=True)


def wait_for_nodes(*_: Any, **__: Any) -> StopRequest:
    """No worker has begun: the monitor interrupts, since there is no step to wait for."""
    signal.raise_signal(signal.SIGTERM)
    raise KeyboardInterrupt


@pytest.mark.parametrize("attempt", [leave_to_grow, wait_for_nodes])
def test_the_word_to_end_is_not_lost(attempt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RunSpec.resolve(document(tmp_path))
    job = Job(spec=spec.model_dump(mode="json"), run=spec.run, base_hash="", fingerprint="", labels=())
    monkeypatch.setattr(train, "attempt", attempt)
    with pytest.raises(Stopped, match="SIGTERM"):
        train.run_attempts(spec, job, ScalingConfig(resources_per_worker={"CPU": 1}), None)


def test_an_interrupt_without_a_word_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    spec = RunSpec.resolve(document(tmp_path))
    job = Job(spec=spec.model_dump(mode="json"), run=spec.run, base_hash="", fingerprint="", labels=())
    monkeypatch.setattr(train, "attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run_attempts(spec, job, ScalingConfig(resources_per_worker={"CPU": 1}), None)


def test_a_driver_whose_workers_have_not_begun_is_interrupted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    notice, killed = StopNotice(), []
    monitor = AttemptMonitor(None, ScalingConfig(resources_per_worker={"CPU": 1}), notice, None)
    monkeypatch.setattr("os.kill", lambda pid, number: killed.append(number))
    notice.give("asked")
    monitor._check()
    monitor._check()
    assert killed == [signal.SIGINT], "a second one would interrupt the cleanup that the first starts"
