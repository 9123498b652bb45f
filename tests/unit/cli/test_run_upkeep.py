"""`runs list` shows results, `runs delete` deletes what nothing needs, and `gc` says what stays and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import regraft as package
from doubles.fake_training import Regraft, publish
from regraft.store import documents
from regraft.store.adaptations import adaptations, write_adaptation
from regraft.store.checkpoints import Checkpoints
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from support.tiny import document

Seen = dict[str, bytes]


def content(store: ObjectStore, prefix: str = "") -> Seen:
    """Return every object below a prefix."""
    return {stat.key: store.get(stat.key) for stat in store.list(prefix)}


def registered(store: ObjectStore, run: str = "tickets-0") -> None:
    """Write a run that was registered as tickets@v1."""
    version = publish(store)
    score = {"name": "accuracy", "mode": "max"}
    Runs(store).update(run, state="registered", model="tickets", version=version.version, step=20, score=score)
    Runs(store).update(run, metrics={"f1": 0.75, "accuracy": 0.8}, seconds=83.0)
    Runs(store).write(run, "metrics.jsonl", b'{"step": 1, "loss": 2.5}\n')
    files = {"delta.safetensors": b"d" * 700, "optimizer.safetensors": b"o" * 1400, "state.json": b'{"finished": true}'}
    Checkpoints(store, run).save(20, files, {"metrics": {"accuracy": 0.8}})


def stopped(store: ObjectStore, run: str = "tickets-s") -> None:
    """Write a run that was stopped half way, as 0.1.0 did: its record does not name the deciding metric."""
    Runs(store).update(run, state="stopped", model="tickets", step=10)
    state = {"best": 0.625, "seconds": 7.0, "finished": False}
    files = {"delta.safetensors": b"d", "optimizer.safetensors": b"o" * 9, "state.json": json.dumps(state).encode()}
    Checkpoints(store, run).save(10, files, {"metrics": {"loss": 1.0, "accuracy": 0.625}})


def a_search(store: ObjectStore, name: str = "tickets-x", state: str = "finished") -> None:
    """Write a search of two trials, one of them registered as tickets@v1."""
    score = {"name": "accuracy", "mode": "max"}
    record = {"name": name, "model": "tickets", "state": state, "trials": 2, "winner": "t0001", "score": score}
    store.put(f"searches/{name}/search.json", documents.encode({**record, "seconds": 40.0}))
    trials = [
        {"id": "t0000", "status": "running", "best": {"accuracy": 0.5}, "registered": None},
        {"id": "t0001", "status": "finished", "best": {"accuracy": 0.8}, "registered": "tickets@v1"},
    ]
    store.put(f"searches/{name}/trials.jsonl", "\n".join([*map(json.dumps, trials), '{"cut']).encode())
    files = {"delta.safetensors": b"d", "optimizer.safetensors": b"o" * 50, "state.json": b"{}"}
    for trial in ("t0000", "t0001"):
        Checkpoints.of_trial(store, name, trial).save(3, files, {"metrics": {"accuracy": 0.8}})


def test_runs_and_searches_are_listed_with_score_and_time(regraft: Regraft, store: ObjectStore) -> None:
    registered(store)
    stopped(store)
    a_search(store)
    out = regraft("runs", "list", "--store", store.url).out
    assert "accuracy 0.8000" in out and "1 min 23 s" in out and "v1" in out
    assert "accuracy 0.6250" in out and "7.0 s" in out and "40 s" in out
    found = regraft("runs", "list", "--store", store.url, "--json").document
    results = {run["run"]: (run["score"], run["seconds"]) for run in found["runs"]}
    assert results == {"tickets-0": ({"accuracy": 0.8}, 83.0), "tickets-s": ({"accuracy": 0.625}, 7.0)}
    assert (found["searches"][0]["score"], found["searches"][0]["seconds"]) == ({"accuracy": 0.8}, 40.0)


def test_a_run_that_0_1_0_registered_has_the_score_of_its_version(regraft: Regraft, store: ObjectStore) -> None:
    version = publish(store)
    Runs(store).update("old", state="registered", model="tickets", version=version.version, metrics={"accuracy": 0.8})
    found = regraft("runs", "list", "--store", store.url, "--json").document["runs"][0]
    assert (found["score"], found["seconds"]) == ({"accuracy": 0.8}, 12.5)
    Runs(store).update("gone", state="registered", model="gone", version="v1")
    store.put("runs/broken/run.json", b"{}")
    listed = regraft("runs", "list", "--store", store.url, "--json").document["runs"]
    assert {run["run"]: run["score"] for run in listed} == {"old": {"accuracy": 0.8}, "gone": {}, "broken": {}}


@pytest.mark.parametrize("write", [registered, stopped, a_search])
def test_what_is_deleted_is_gone_and_nothing_else(
    write: Callable[[ObjectStore], None], regraft: Regraft, store: ObjectStore
) -> None:
    publish(store, "other")
    Runs(store).update("tickets-s2", state="stopped", model="tickets")
    others = content(store)
    write(store)
    name = next(key.split("/")[1] for key in content(store) if key not in others and not key.startswith("models/"))
    kept = {key: data for key, data in content(store).items() if key.split("/")[1] != name}
    size = sum(len(data) for key, data in content(store).items() if key.split("/")[1] == name)
    result = regraft("runs", "delete", name, "--yes", "--store", store.url, "--json")
    assert result.code == 0, result.err
    assert [(one["name"], one["bytes"]) for one in result.document["deleted"]] == [(name, size)]
    assert content(store) == kept
    assert not any((Path(store.url) / folder / name).exists() for folder in ("runs", "searches"))


def test_what_is_lost_and_what_stays_is_said_before(regraft: Regraft, store: ObjectStore) -> None:
    registered(store)
    stopped(store)
    before = content(store)
    result = regraft("runs", "delete", "tickets-0", "tickets-s", "--store", store.url)
    assert result.code == 2 and "--yes" in result.err
    assert "tickets@v1 stays: it has copies of all that is needed" in result.out
    assert "stopped, no version was registered from it; the same command could go on" in result.out
    assert content(store) == before


def test_a_run_that_a_process_drives_is_never_deleted_nor_are_those_beside_it(
    regraft: Regraft, store: ObjectStore
) -> None:
    registered(store)
    stopped(store)
    a_search(store, state="running")
    for name, folder in (("tickets-s", "runs/tickets-s"), ("tickets-x", "searches/tickets-x")):
        with Lease(store, name, folder=folder):
            before = content(store)
            result = regraft("runs", "delete", "tickets-0", name, "--yes", "--store", store.url)
            assert result.code == 2 and "drives this" in result.err and name in result.err
            assert content(store) == before


@pytest.mark.parametrize("damage", ["delta.safetensors", "manifest.json", "missing"])
@pytest.mark.parametrize(("write", "name"), [(registered, "tickets-0"), (a_search, "tickets-x")])
def test_a_run_whose_version_is_damaged_stays(
    damage: str, write: Callable[[ObjectStore], None], name: str, regraft: Regraft, store: ObjectStore
) -> None:
    write(store)
    if name == "tickets-x":
        publish(store)
        adopt(store, "tickets-x/t0001")
    if damage == "missing":
        store.delete(["models/tickets/v1/delta.safetensors"])
    else:
        store.put(f"models/tickets/v1/{damage}", b"{}")
    before = content(store)
    result = regraft("runs", "delete", name, "--yes", "--store", store.url)
    assert result.code == 2 and "tickets@v1 comes from it and is damaged" in result.err
    assert content(store) == before


def adopt(store: ObjectStore, run: str) -> None:
    """Write tickets@v1 again as one that comes from this run."""
    version = Registry(store).version("tickets", "v1")
    files = {entry.name: store.get(version.prefix + entry.name) for entry in version.manifest.files}
    meta: dict[str, Any] = {**version.meta, "lineage": {**version.meta["lineage"], "run": run}}
    store.delete([stat.key for stat in store.list("models/tickets/")])
    Registry(store).publish("tickets", files, meta)


def test_a_name_that_does_not_exist_deletes_nothing(regraft: Regraft, store: ObjectStore) -> None:
    registered(store)
    before = content(store)
    result = regraft("runs", "delete", "tickets-0", "tickets-1", "--yes", "--store", store.url)
    assert result.code == 2 and "did you mean 'tickets-0'?" in result.err
    assert content(store) == before


def test_gc_lists_optimizer_states_and_deletes_them_only_when_asked(regraft: Regraft, store: ObjectStore) -> None:
    registered(store)
    stopped(store)
    a_search(store)
    before = content(store)
    result = regraft("gc", "--store", store.url)
    assert "tickets-0" in result.out and "regraft gc --optimizer-states" in result.out and "1.4 kB" in result.out
    assert "what stays, and why" in result.out and "registered versions" in result.out
    assert content(store) == before, "the list alone deletes nothing"
    listed = regraft("gc", "--store", store.url, "--json").document
    assert [(one["name"], one["bytes"], one["checkpoints"]) for one in listed["optimizer_states"]] == [
        ("tickets-0", 1400, 1),
        ("tickets-x", 50, 1),
    ]
    assert not listed["optimizer_states_removed"]
    done = regraft("gc", "--optimizer-states", "--store", store.url, "--json").document
    assert done["freed_bytes"] == 1450 and done["optimizer_states_removed"]
    gone = set(before) - set(content(store))
    assert {key.rpartition("/")[2] for key in gone} == {"optimizer.safetensors"} and len(gone) == 2
    assert "tickets-s" not in " ".join(gone) and "t0000" not in " ".join(gone), "these may go on"
    assert regraft("gc", "--store", store.url, "--json").document["optimizer_states"] == []


def test_gc_leaves_a_damaged_checkpoint_as_it_is(regraft: Regraft, store: ObjectStore) -> None:
    registered(store)
    a_search(store)
    key = f"{Checkpoints(store, 'tickets-0').listed()[0].prefix}state.json"
    store.put(key, b"{}")
    result = regraft("gc", "--optimizer-states", "--store", store.url, "--json")
    assert result.code == 0 and result.document["freed_bytes"] == 50
    assert "damaged checkpoint stays" in result.err
    assert f"{key.rpartition('/')[0]}/optimizer.safetensors" in content(store)


def test_gc_leaves_a_run_alone_that_a_process_drives(regraft: Regraft, store: ObjectStore) -> None:
    registered(store)
    with Lease(store, "tickets-0"):
        assert regraft("gc", "--optimizer-states", "--store", store.url, "--json").document["freed_bytes"] == 0
    assert any(key.endswith("optimizer.safetensors") for key in content(store))


def test_a_registered_run_stays_readable_and_its_version_whole(tmp_path: Path, regraft: Regraft) -> None:
    spec = document(tmp_path, method="full", rows=24, eval_rows=9, checkpoint_steps=2)
    first = package.train(spec)
    store = open_store(first.store)
    model, answers = content(store, "models/"), package.load("tiny", store=first.store).predict(["my lamp is off"])
    sizes = regraft("gc", "--optimizer-states", "--store", first.store, "--json").document
    assert sizes["freed_bytes"] > 0
    assert content(store, "models/") == model
    assert package.load("tiny", store=first.store).predict(["my lamp is off"]) == answers
    shown = regraft("runs", "show", first.run, "--store", first.store, "--json").document
    assert shown["checkpoints"] and not any("damaged" in one for one in shown["checkpoints"])
    assert package.train(spec).already
    # Its record is lost: it is finished at its last checkpoint, and the same version is found again.
    store.delete([f"runs/{first.run}/run.json"])
    again = package.train(spec)
    assert (again.version, again.metrics) == (first.version, first.metrics)
    for name in [key for key in content(store, f"runs/{first.run}/checkpoints/") if key.endswith("manifest.json")]:
        if b'"resumable": true' in store.get(name):
            store.put(name, b"{}")
    store.delete([f"runs/{first.run}/run.json"])
    assert package.train(spec).version == first.version, "no step can follow the others, so it begins again"


def test_a_deleted_run_trains_to_the_same_version_again(tmp_path: Path, regraft: Regraft) -> None:
    spec = document(tmp_path, method="feature-extraction", rows=24, eval_rows=9, epochs=1)
    first = package.train(spec)
    assert regraft("runs", "delete", first.run, "--yes", "--store", first.store).code == 0
    again = package.train(spec)
    assert (again.run, again.version, again.already) == (first.run, "v1", False)


def test_an_adaptation_is_listed_and_deleted_and_its_versions_stay(regraft: Regraft, store: ObjectStore) -> None:
    registered(store)
    found = {"model": "tickets", "state": "finished", "chosen": "zscore", "version": "v1", "source": "tickets@v1"}
    write_adaptation(store, "tickets-0.adapt", found)
    write_adaptation(store, "tickets-1.adapt", {"model": "tickets", "state": "running"})
    listed = regraft("runs", "list", "--store", store.url, "--json").document["adaptations"]
    assert [(one["adaptation"], one["state"], one["chosen"]) for one in listed] == [
        ("tickets-0.adapt", "finished", "zscore"),
        ("tickets-1.adapt", "interrupted", ""),
    ]
    done = regraft("runs", "delete", "tickets-0.adapt", "--yes", "--store", store.url)
    assert done.code == 0 and "its runs and versions stay" in done.out + done.err
    assert adaptations(store) == ["tickets-1.adapt"] and Registry(store).version("tickets", "v1")
