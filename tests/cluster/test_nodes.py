"""Training over several nodes, which come, are taken away and die."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.store.objects import open_store
from support.processes import in_child, train_counted
from support.ray_nodes import BIN, Driver, Machines, can_hide, until
from support.tiny import document
from unit.training.test_equal import losses
from unit.training.test_resume import delta, effective, last_state, last_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STEPS = 16  # 60 rows, batches of 8, 2 epochs
draw = random.Random(2026)
RAYS_OWN = {"_AutoscalingCoordinatorActor", "_StatsActor", "ActorLocationTracker"}
KILLS = {str(step): draw.randrange(4) for step in sorted(draw.sample(range(1, STEPS), 3))}
"""The steps right after which a node dies, and the rank whose node it is."""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines() as made:
        yield made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base and of rows, which every node of this machine sees."""
    folder = tmp_path_factory.mktemp("nodes")
    document(folder)
    return folder


def spec_in(inputs: Path, store: Path, workers: Any, **more: Any) -> dict[str, Any]:
    """A spec whose store is of its own; the threads are those of every other one here."""
    strategy = more.pop("strategy", "ddp")
    written = document(inputs, checkpoint_steps=3, dropout=0.0, **more)
    return {
        **written,
        "compute": {"workers": workers, "cpus": 1, "max_failures": 5, "strategy": strategy},
        "store": str(store),
    }


def nothing_is_kept_busy(machines: Machines) -> None:
    """No placement group is left, and no actor but those that Ray itself keeps on the head."""

    def free() -> bool:
        actors = [actor.split() for actor in machines.execute("actors").values()]
        kept = [name for name, node in actors if name not in RAYS_OWN or node in machines.nodes]
        return not kept and not machines.execute("groups")

    until(free, "all that the command held is given back", 60)


@pytest.fixture(scope="module")
def alone(inputs: Path) -> dict[str, Any]:
    """A run of one process, without Ray."""
    written = spec_in(inputs, inputs / "alone", 0)
    assert in_child(train_counted, written, str(inputs / "alone.journal")) == 0
    assert len(losses(written)) == STEPS
    return written


@pytest.fixture(scope="module")
def four(machines: Machines, inputs: Path) -> dict[str, Any]:
    """The same run on four nodes, undisturbed."""
    machines.bring_to(4)
    written = spec_in(inputs, inputs / "four", 4)
    assert Driver(machines, inputs / "straight", written).ended()[-1]["version"] == "v1"
    nothing_is_kept_busy(machines)
    return written


def same_losses(first: dict[str, Any], second: dict[str, Any]) -> None:
    for one, other in zip(losses(first), losses(second), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_four_workers_on_four_nodes_have_the_losses_of_one(alone: dict[str, Any], four: dict[str, Any]) -> None:
    same_losses(alone, four)


def test_three_nodes_that_die_leave_what_an_undisturbed_run_leaves(
    machines: Machines, inputs: Path, four: dict[str, Any], tmp_path: Path
) -> None:
    written = spec_in(inputs, tmp_path / "store", 4)
    driver = Driver(machines, tmp_path, written, kill=KILLS)
    while driver.process.poll() is None:
        machines.bring_to(4)  # as whoever runs the cluster would
    events = driver.ended()
    assert sum("workers were lost" in event.get("message", "") for event in events) == 3
    assert delta(written) == delta(four)
    assert last_tensors(written) == last_tensors(four)
    assert last_state(written) == last_state(four)
    assert effective(driver.row_log) == effective(inputs / "straight" / "journal")
    nothing_is_kept_busy(machines)


def test_sharded_over_two_nodes_the_losses_are_those_of_replicas(
    machines: Machines, inputs: Path, four: dict[str, Any], tmp_path: Path
) -> None:
    machines.bring_to(2)
    written = spec_in(inputs, tmp_path / "store", 2, strategy="fsdp")
    Driver(machines, tmp_path, written).ended()
    same_losses(four, written)


def test_workers_that_grow_from_one_to_two_and_fall_to_one_use_each_row_once_an_epoch(
    machines: Machines, inputs: Path, tmp_path: Path
) -> None:
    machines.bring_to(1)
    written = spec_in(inputs, tmp_path / "store", [1, 2], epochs=4)
    # Ray Train counts nodes anew every 20 seconds: a group that grew sooner would begin with one worker again.
    driver = Driver(machines, tmp_path, written, hold=[9], kill={"20": 1}, quick=22.0)
    until(lambda: 9 in driver.steps(), "the first worker is at work")
    machines.bring_to(2)
    events = driver.ended()
    assert [event["workers"] for event in events if event["event"] == "start"] == [1, 2, 1]
    assert any("there is room for more workers" in event.get("message", "") for event in events)
    used = effective(driver.row_log)
    for first in range(0, 32, 8):
        assert sorted(np.concatenate(used[first : first + 8]).tolist()) == list(range(60))
    # Growing costs no step: the second group went on right where the first one left.
    assert driver.steps()[:20] == list(range(20))


def test_a_node_that_will_be_taken_away_and_a_driver_that_is_to_end_lose_no_step(
    machines: Machines, inputs: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    machines.bring_to(2)
    written = spec_in(inputs, tmp_path / "store", 1)
    driver = Driver(machines, tmp_path, written, hold=[4, 10])
    until(lambda: 4 in driver.steps(), "the worker is at work")
    machines.drain(home_of_the_worker(machines))
    until(lambda: 10 in driver.steps(), "another node goes on")
    driver.process.send_signal(signal.SIGTERM)
    events = driver.ended(code=1)
    assert any("will be taken away" in event.get("message", "") for event in events)
    assert events[-1]["kind"] == "Stopped" and "the same command goes on" in events[-1]["message"]
    nothing_is_kept_busy(machines)
    again = Driver(machines, tmp_path, written)
    again.ended()
    assert again.steps() == list(range(STEPS)), "a step was trained twice, or not at all"
    assert delta(written) == delta(alone)
    machines.kill(machines.nodes[0])
    machines.kill(machines.nodes[0])


def home_of_the_worker(machines: Machines) -> str:
    (home,) = {actor.split()[1] for actor in machines.execute("actors").values() if "RayTrainWorker" in actor}
    return home


def test_a_job_that_no_node_can_hold_is_refused_at_once(machines: Machines, inputs: Path, tmp_path: Path) -> None:
    machines.bring_to(2)
    written = spec_in(inputs, tmp_path / "store", 1)
    written["compute"]["cpus"] = 2
    events = Driver(machines, tmp_path, written).ended(code=2)
    wanted = "1 workers with 2 CPU each are asked for; the cluster has as much, but its nodes hold only 0 of them"
    assert wanted in events[-1]["message"]
    assert not list(open_store(written["store"]).list("runs/"))


def test_a_prediction_over_two_nodes_leaves_nothing_of_itself_on_them(
    machines: Machines, inputs: Path, four: dict[str, Any], tmp_path: Path
) -> None:
    machines.bring_to(2)
    command = [
        str(BIN / "regraft"),
        "predict",
        "tiny",
        str(inputs / "eval.csv"),
        "--output",
        str(tmp_path / "out.jsonl"),
    ]
    done = subprocess.run(
        [*command, "--store", four["store"], "--workers", "2", "--address", machines.address],
        env=machines.environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 30
    nothing_is_kept_busy(machines)


@pytest.mark.skipif(not can_hide(), reason="this machine gives no process its own view of files (unshare -m)")
def test_a_node_that_sees_only_the_store_trains_and_what_it_must_see_besides_is_named(
    machines: Machines, inputs: Path, tmp_path: Path
) -> None:
    machines.bring_to(0)
    hidden = tmp_path / "hidden"
    document(hidden)
    (hidden / "tmp").mkdir()
    machines.add_blind(hidden)
    written = spec_in(inputs, tmp_path / "store", 1)

    def refused(**changes: Any) -> str:
        events = Driver(machines, tmp_path / "refused", {**written, **changes}).ended(code=2)
        return str(events[-1]["message"])

    unseen = f"1 of 2 nodes do not see {hidden}/store as this machine does: use s3://"
    assert unseen in refused(store=str(hidden / "store"))
    told = refused(base=str(hidden / "base"))
    assert f"base: 1 of 2 nodes do not see {hidden}/base: name it by s3://" in told
    # Rows are read by the driver, and Ray's own files of the run lie in a folder of the driver's machine.
    data = {side: str(hidden / f"{side}.csv") for side in ("train", "eval")}
    environment = {**machines.environment, "TMPDIR": str(hidden / "tmp")}
    events = Driver(machines, tmp_path / "trained", {**written, "data": data}, environment=environment).ended()
    assert events[-1]["version"] == "v1"
