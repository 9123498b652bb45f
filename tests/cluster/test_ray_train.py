"""Training on Ray: the loop of LocalHarness on workers, which may die."""

from __future__ import annotations

import hashlib
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from regraft.cluster.train import train
from regraft.contracts import Event, Resumed, Stepped
from regraft.errors import ClusterError, DataError, Diverged, Interrupted, RegraftError, RequestError, Unsupported
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from support.tiny import document

KILLER = '''
import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from regraft.contracts import Loss


class Term(nn.Module):
    def __init__(self, kill):
        super().__init__()
        self.kill, self.calls = kill, 0

    def forward(self, step):
        self.calls += 1
        for call in self.kill.calls:
            marker = Path(self.kill.folder) / f"killed-{call}"
            if self.calls == call and dist.get_rank() == self.kill.rank and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(())


class Killer(Loss):
    """Ends a worker at a call of its own, once for each marker file."""

    folder: str = "."
    """Where the markers are."""
    calls: tuple[int, ...] = ()
    """The forward passes of an attempt at which it dies."""
    rank: int = 0
    """Which rank dies."""

    def build(self, model, anatomy):
        return Term(self)
'''


def spec_with_killer(folder: Path, workers: int, calls: list[int], *, armed: bool) -> RunSpec:
    """A spec whose worker dies at the given calls; disarmed, the very same spec trains straight through."""
    (folder / "mine" / "losses").mkdir(parents=True, exist_ok=True)
    # A process knows one plugin of a name: each test brings its own.
    name = "killer_" + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    (folder / "mine" / "losses" / f"{name}.py").write_text(KILLER)
    markers = folder / "markers"
    markers.mkdir(exist_ok=True)
    for call in calls:
        marker = markers / f"killed-{call}"
        marker.unlink(missing_ok=True) if armed else marker.touch()
    written = document(folder, checkpoint_steps=3)
    written |= {
        "plugins": [str(folder / "mine")],
        "losses": [{"type": name.replace("_", "-"), "folder": str(markers), "calls": calls, "rank": workers - 1}],
        "compute": {"workers": workers, "cpus": 1},
        "store": str(folder / ("killed" if armed else "straight")),
    }
    return RunSpec.resolve(written)


def delta(spec: RunSpec) -> bytes:
    return open_store(spec.store).get("models/tiny/v1/delta.safetensors")


def survives(folder: Path, workers: int, calls: list[int]) -> None:
    straight = spec_with_killer(folder, workers, calls, armed=False)
    train(straight)
    killed = spec_with_killer(folder, workers, calls, armed=True)
    events: list[dict[str, Any]] = []
    outcome = train(killed, progress=lambda event: events.append(event.document()))
    notes = [event["message"] for event in events if event["event"] == "note"]
    assert sum("workers were lost" in note for note in notes) == len(calls)
    assert any(event["event"] == "resume" for event in events)
    assert outcome.version == "v1"
    assert delta(killed) == delta(straight)


@pytest.mark.slow
def test_a_killed_worker_of_two_leaves_a_bit_identical_delta(on_ray: None, tmp_path: Path) -> None:
    survives(tmp_path, workers=2, calls=[9])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_two_kills_leave_a_bit_identical_delta(workers: int, on_ray: None, tmp_path: Path) -> None:
    survives(tmp_path, workers, calls=[5, 7])


@pytest.mark.slow
def test_a_request_that_is_wrong_is_not_tried_again_and_keeps_its_type(on_ray: None, tmp_path: Path) -> None:
    written = document(tmp_path, lr=1e30, optimizer="sgd", clip=None, warmup=0.0) | {"compute": {"workers": 1}}
    events: list[dict[str, Any]] = []
    with pytest.raises(Diverged, match=r"lower training\.lr"):
        train(RunSpec.resolve(written), progress=lambda event: events.append(event.document()))
    assert not any("workers were lost" in event.get("message", "") for event in events)


BROKEN = '''
from regraft.contracts import Loss


class Broken(Loss):
    """Fails."""

    def build(self, model, anatomy):
        return [][0]
'''


@pytest.mark.slow
def test_a_plugin_that_fails_is_not_tried_again_and_interrupts_keep_their_handler(on_ray: None, tmp_path: Path) -> None:
    (tmp_path / "mine" / "losses").mkdir(parents=True)
    (tmp_path / "mine" / "losses" / "broken.py").write_text(BROKEN)
    written = document(tmp_path) | {
        "plugins": [str(tmp_path / "mine")],
        "losses": ["broken"],
        "compute": {"workers": 1, "cpus": 1},
    }
    events: list[dict[str, Any]] = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ClusterError, match="IndexError: list index out of range"):
        train(RunSpec.resolve(written), progress=lambda event: events.append(event.document()))
    assert not any("workers were lost" in event.get("message", "") for event in events)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_at_a_step_with_a_checkpoint_and_the_same_command_goes_on(
    workers: int, on_ray: None, tmp_path: Path
) -> None:
    written = document(tmp_path, epochs=200, checkpoint_steps=10_000) | {"compute": {"workers": workers, "cpus": 1}}
    spec, seen = RunSpec.resolve(written), list[int]()
    runs = Runs(open_store(spec.store))

    def interrupts(event: Event) -> None:
        if isinstance(event, Stepped):
            if not seen:
                os.kill(os.getpid(), signal.SIGINT)
            seen.append(event.step)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="the same command goes on from there") as stopped:
        train(spec, progress=interrupts)
    assert stopped.value.exit_code == 130 and signal.getsignal(signal.SIGINT) is before
    info = runs.info(spec.run)
    assert info.state == "stopped" and info.step >= seen[-1] > 0
    resumed: list[int] = []
    with pytest.raises(Interrupted):
        train(spec, progress=partial(interrupted_at, resumed))
    assert resumed[0] == info.step, "no step is taken twice"


def interrupted_at(resumed: list[int], event: Event) -> None:
    """Note where the run goes on, and interrupt it again."""
    if isinstance(event, Resumed):
        resumed.append(event.step)
    if isinstance(event, Stepped) and len(resumed) == 1:
        resumed.append(event.step)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_job_api_address_is_answered_with_the_command_to_use(tmp_path: Path) -> None:
    written = document(tmp_path) | {"compute": {"workers": 1}}
    with pytest.raises(Unsupported, match="regraft train SPEC --address http://head:8265"):
        train(RunSpec.resolve(written), address="http://head:8265")


def test_more_workers_than_the_cluster_has_is_refused_before_anything_starts(on_ray: None, tmp_path: Path) -> None:
    written = document(tmp_path) | {"compute": {"workers": 64, "cpus": 4}}
    with pytest.raises(RequestError, match="64 workers with 4 CPU each"):
        train(RunSpec.resolve(written))


CROWDED = '''
from typing import NamedTuple

import psutil
import torch
import torch.distributed as dist
from torch import nn

from regraft.contracts import Loss


class Memory(NamedTuple):
    available: int


if dist.is_initialized():
    psutil.virtual_memory = lambda: Memory(750_000)


class Nothing(nn.Module):
    def forward(self, step):
        return torch.zeros(())


class Crowded(Loss):
    """Brings its workers to a machine with little memory."""

    def build(self, model, anatomy):
        return Nothing()
'''


@pytest.mark.slow
def test_workers_on_one_machine_are_refused_once_when_together_they_need_more_memory_than_it_has(
    on_ray: None, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "losses").mkdir(parents=True)
    (tmp_path / "mine" / "losses" / "crowded.py").write_text(CROWDED)
    written = document(tmp_path) | {
        "plugins": [str(tmp_path / "mine")],
        "losses": ["crowded"],
        "compute": {"workers": 2, "cpus": 1},
    }
    events: list[dict[str, Any]] = []
    with pytest.raises(RequestError, match=r"for 2 workers on one machine: .* write fewer compute\.workers"):
        train(RunSpec.resolve(written), progress=lambda event: events.append(event.document()))
    assert not any("workers were lost" in event.get("message", "") for event in events)
    assert train(RunSpec.resolve(written | {"compute": {"workers": 1, "cpus": 1}})).version == "v1"


def test_bad_rows_are_refused_by_file_and_row(on_ray: None, tmp_path: Path) -> None:
    written = document(tmp_path)
    path = tmp_path / "eval.csv"
    path.write_text(path.read_text() + "a text,unheard-of\n")
    with pytest.raises(DataError, match="unheard-of") as caught:
        train(RunSpec.resolve(written))
    assert isinstance(caught.value, RegraftError)


@pytest.mark.slow
def test_an_elastic_number_of_workers_trains_to_a_registered_model(on_ray: None, tmp_path: Path) -> None:
    written = document(tmp_path, dropout=0.0) | {"compute": {"workers": [1, 2], "cpus": 1}}
    events: list[dict[str, Any]] = []
    outcome = train(RunSpec.resolve(written), progress=lambda event: events.append(event.document()))
    assert outcome.version == "v1"
    assert next(event["workers"] for event in events if event["event"] == "start") in (1, 2)
