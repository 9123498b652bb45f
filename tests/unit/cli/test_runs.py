"""`regraft runs` shows the progress of runs, and `regraft gc` deletes only what will never be finished."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from doubles.fake_training import Regraft
from regraft.store import documents
from regraft.store.checkpoints import Checkpoints
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs


def record(store: ObjectStore) -> None:
    """Write a run with a checkpoint, two metric lines, and a truncated line."""
    runs = Runs(store)
    runs.update("tickets-1", state="running", model="tickets", step=20, baselines={"majority": {"accuracy": 0.5}})
    runs.write("tickets-1", "metrics.jsonl", b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 0.00123}\n{"st')
    Checkpoints(store, "tickets-1").save(20, {"delta.safetensors": b"x" * 1500}, {"metrics": {"accuracy": 0.75}})


def test_runs_are_listed_with_their_state(regraft: Regraft, store: ObjectStore) -> None:
    assert "no runs in" in regraft("runs", "list", "--store", store.url).out
    record(store)
    rows = [line.split() for line in regraft("runs", "list", "--store", store.url).out.splitlines()]
    assert rows[1][:4] == ["tickets-1", "tickets", "interrupted", "20"], "no process drives it"
    found = regraft("runs", "list", "--store", store.url, "--json").document["runs"]
    assert [(run["run"], run["state"], run["step"]) for run in found] == [("tickets-1", "interrupted", 20)]


def test_a_run_is_shown_with_checkpoints_and_metrics(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    result = regraft("runs", "show", "tickets-1", "--store", store.url)
    assert result.code == 0
    for told in ("interrupted", "majority: accuracy 0.5000", "1.5 kB", "accuracy 0.7500", "step 2  loss 0.00123"):
        assert told in result.out
    document = regraft("runs", "show", "tickets-1", "--store", store.url, "--json").document
    assert document["checkpoints"][0]["step"] == 20
    assert document["log"][-1] == {"unreadable": '{"st'}


def test_a_damaged_checkpoint_is_named_and_the_run_still_shown(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    saved = Checkpoints(store, "tickets-1").listed()[0]
    store.put(f"{saved.prefix}manifest.json", b"{}")
    result = regraft("runs", "show", "tickets-1", "--store", store.url)
    assert result.code == 0
    assert "damaged" in result.out


def test_the_nearest_run_is_named(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    result = regraft("runs", "show", "tickets-2", "--store", store.url)
    assert result.code == 2
    assert "did you mean 'tickets-1'?" in result.err


def test_gc_removes_what_was_never_committed_and_is_old(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    prefix = "runs/tickets-1/checkpoints"
    store.put(f"{prefix}/00000030-0000000a/delta.safetensors", b"x" * 1000)
    store.put(f"{prefix}/00000040-0000000b/delta.safetensors", b"young")
    old = Path(store.url) / prefix / "00000030-0000000a/delta.safetensors"
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    result = regraft("gc", "--store", store.url, "--json")
    assert result.document["removed"] == [f"{prefix}/00000030-0000000a/"]
    assert result.document["freed_bytes"] == 1000
    left = [stat.key for stat in store.list(prefix)]
    assert f"{prefix}/00000040-0000000b/delta.safetensors" in left
    assert len(Checkpoints(store, "tickets-1").listed()) == 1


def test_gc_of_a_clean_store_removes_nothing(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    before = [stat.key for stat in store.list()]
    assert "0 unfinished" in regraft("gc", "--store", store.url).out
    assert [stat.key for stat in store.list()] == before


def test_a_run_that_nobody_drives_is_reported_as_interrupted_and_cannot_be_stopped(
    regraft: Regraft, store: ObjectStore
) -> None:
    record(store)
    found = regraft("runs", "list", "--store", store.url, "--json").document["runs"]
    assert found[0]["state"] == "interrupted"
    result = regraft("runs", "stop", "tickets-1", "--store", store.url)
    assert result.code == 2 and "no process drives it" in result.err
    assert not Runs(store).stop_requested("tickets-1")


def test_stop_waits_until_the_driver_has_let_go(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    lease = Lease(store, "tickets-1").acquire()
    assert regraft("runs", "list", "--store", store.url, "--json").document["runs"][0]["state"] == "running"

    def drive() -> None:
        while not Runs(store).stop_requested("tickets-1"):
            time.sleep(0.01)
        Runs(store).update("tickets-1", state="stopped", step=21)
        lease.release()

    driver = threading.Thread(target=drive)
    driver.start()
    result = regraft("runs", "stop", "tickets-1", "--store", store.url)
    driver.join()
    assert result.code == 0
    assert "stopped at step 21" in result.out


def test_a_run_that_ended_before_it_could_stop_is_not_said_to_continue(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    lease = Lease(store, "tickets-1").acquire()

    def drive() -> None:
        while not Runs(store).stop_requested("tickets-1"):
            time.sleep(0.01)
        Runs(store).update("tickets-1", state="registered", step=40)
        lease.release()

    driver = threading.Thread(target=drive)
    driver.start()
    result = regraft("runs", "stop", "tickets-1", "--store", store.url)
    driver.join()
    assert "registered at step 40" in result.out and "continues it" not in result.out


@pytest.mark.parametrize("command", ["stop", "show", "logs"])
def test_a_search_is_no_run_and_it_is_said_how_it_ends(command: str, regraft: Regraft, store: ObjectStore) -> None:
    record_of_search = {"name": "tickets-s", "model": "tickets", "state": "running", "trials": 4}
    store.put("searches/tickets-s/search.json", documents.encode(record_of_search))
    lease = Lease(store, "tickets-s", folder="searches/tickets-s").acquire()
    listed = regraft("runs", "list", "--store", store.url, "--json").document["searches"]
    assert listed[0]["state"] == "running"
    result = regraft("runs", command, "tickets-s", "--store", store.url)
    lease.release()
    assert result.code == 2
    assert f"process {os.getpid()}" in result.err and "SIGTERM" in result.err and "ray job stop" in result.err
    listed = regraft("runs", "list", "--store", store.url, "--json").document["searches"]
    assert listed[0]["state"] == "interrupted", "no process drives it"


def test_logs_are_reported_with_their_time_and_followed_to_the_end(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    lines = [
        {"time": 1e9, "event": "note", "message": "began"},
        {"time": 1e9 + 1, "event": "step", "step": 3, "steps": 9, "loss": 0.5},
        {"event": "something new"},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    Runs(store).write("tickets-1", "log.jsonl", f'{text}\n{{"cut'.encode())
    result = regraft("runs", "logs", "tickets-1", "--store", store.url)
    assert result.out.splitlines() == ["09-09 01:46:40  began", "09-09 01:46:41  step 3/9  loss 0.5000"]
    assert regraft("runs", "logs", "tickets-1", "--store", store.url, "--json").document["log"] == lines
    lease = Lease(store, "tickets-1").acquire()

    def go_on() -> None:
        time.sleep(0.3)
        lines.append({"time": 1e9 + 2, "event": "end", "kind": "Diverged", "message": "no number"})
        Runs(store).write("tickets-1", "log.jsonl", "\n".join(json.dumps(line) for line in lines).encode())
        lease.release()

    driver = threading.Thread(target=go_on)
    driver.start()
    result = regraft("runs", "logs", "tickets-1", "-f", "--store", store.url)
    driver.join()
    assert [line[16:] for line in result.out.splitlines()] == [
        "began",
        "step 3/9  loss 0.5000",
        "ended: Diverged: no number",
    ]
