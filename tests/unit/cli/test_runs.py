"""`regraft runs` and `regraft gc` tell how far runs came, and remove only what nobody will finish."""

from __future__ import annotations

import os
import time
from pathlib import Path

from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from unit.cli.pretended import Regraft


def record(store: ObjectStore) -> None:
    """A run with a checkpoint, two metric lines, and a line that was cut."""
    runs = Runs(store)
    runs.update("tickets-1", state="running", model="tickets", step=20, baselines={"majority": {"accuracy": 0.5}})
    runs.write("tickets-1", "metrics.jsonl", b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 0.00123}\n{"st')
    Checkpoints(store, "tickets-1").save(20, {"delta.safetensors": b"x" * 1500}, {"metrics": {"accuracy": 0.75}})


def test_runs_are_listed_with_their_state(regraft: Regraft, store: ObjectStore) -> None:
    assert "no runs in" in regraft("runs", "list", "--store", store.url).out
    record(store)
    rows = [line.split() for line in regraft("runs", "list", "--store", store.url).out.splitlines()]
    assert rows[1][:4] == ["tickets-1", "tickets", "running", "20"]
    found = regraft("runs", "list", "--store", store.url, "--json").document["runs"]
    assert [(run["run"], run["state"], run["step"]) for run in found] == [("tickets-1", "running", 20)]


def test_a_run_is_shown_with_checkpoints_and_metrics(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    said = regraft("runs", "show", "tickets-1", "--store", store.url)
    assert said.code == 0
    for told in ("running", "majority: accuracy 0.5000", "1.5 kB", "accuracy 0.7500", "step 2  loss 0.00123"):
        assert told in said.out
    document = regraft("runs", "show", "tickets-1", "--store", store.url, "--json").document
    assert document["checkpoints"][0]["step"] == 20
    assert document["log"][-1] == {"unreadable": '{"st'}


def test_a_damaged_checkpoint_is_named_and_the_run_still_shown(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    saved = Checkpoints(store, "tickets-1").listed()[0]
    store.put(f"{saved.prefix}manifest.json", b"{}")
    said = regraft("runs", "show", "tickets-1", "--store", store.url)
    assert said.code == 0
    assert "damaged" in said.out


def test_the_nearest_run_is_named(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    said = regraft("runs", "show", "tickets-2", "--store", store.url)
    assert said.code == 2
    assert "did you mean 'tickets-1'?" in said.err


def test_gc_removes_what_was_never_committed_and_is_old(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    prefix = "runs/tickets-1/checkpoints"
    store.put(f"{prefix}/00000030-0000000a/delta.safetensors", b"x" * 1000)
    store.put(f"{prefix}/00000040-0000000b/delta.safetensors", b"young")
    old = Path(store.url) / prefix / "00000030-0000000a/delta.safetensors"
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    said = regraft("gc", "--store", store.url, "--json")
    assert said.document["removed"] == [f"{prefix}/00000030-0000000a/"]
    assert said.document["freed_bytes"] == 1000
    left = [stat.key for stat in store.list(prefix)]
    assert f"{prefix}/00000040-0000000b/delta.safetensors" in left
    assert len(Checkpoints(store, "tickets-1").listed()) == 1


def test_gc_of_a_clean_store_removes_nothing(regraft: Regraft, store: ObjectStore) -> None:
    record(store)
    before = [stat.key for stat in store.list()]
    assert "0 unfinished" in regraft("gc", "--store", store.url).out
    assert [stat.key for stat in store.list()] == before
