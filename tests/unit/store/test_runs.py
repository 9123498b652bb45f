"""The small documents of runs: found, listed, and changed concurrently without loss."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from regraft.errors import Damaged, NotFound, RequestError
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import ObjectStore
from regraft.store.runs import RunInfo, Runs


@pytest.fixture
def runs(store: ObjectStore) -> Runs:
    return Runs(store)


def test_documents_are_written_and_read(runs: Runs) -> None:
    runs.write("r~1", "spec.yaml", b"name: x")
    assert runs.read("r~1", "spec.yaml") == b"name: x"
    with pytest.raises(NotFound):
        runs.read("r~1", "metrics.jsonl")
    for run, document in (("..", "spec.yaml"), ("r", "../x"), ("", "x")):
        with pytest.raises(RequestError):
            runs.write(run, document, b"")


def test_the_record_keeps_what_is_not_changed(runs: Runs) -> None:
    assert runs.find("r") is None and runs.list() == []
    runs.update("r", state="running", model="m", extra=[1])
    runs.update("r", step=5)
    found = runs.info("r")
    assert (found.state, found.model, found.step) == ("running", "m", 5)
    assert found.fields["extra"] == [1] and runs.find("r") == found.fields


def test_runs_are_listed_the_newest_first(runs: Runs) -> None:
    for name in ("a", "b", "c"):
        runs.update(name, state="running")
    runs.update("a", state="done")
    Checkpoints(runs.store, "b").save(1, {"run.json": b"not a run"}, {})
    runs.write("no-record", "spec.yaml", b"")
    assert [(info.name, info.state) for info in runs.list()] == [("a", "done"), ("c", "running"), ("b", "running")]


def test_a_run_that_does_not_exist_is_reported_with_the_nearest(runs: Runs) -> None:
    runs.update("support-tickets-1a2b", state="done")
    with pytest.raises(NotFound, match="did you mean 'support-tickets-1a2b'"):
        runs.info("support-tickets-1a2c")


def test_updates_at_once_lose_nothing(runs: Runs) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: runs.update("r", **{f"field{n}": n}), range(16)))
    fields = runs.info("r").fields
    assert {f"field{n}": n for n in range(16)}.items() <= fields.items()


def test_a_damaged_record_is_named_listed_and_written_anew(
    folder: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs(folder)
    runs.update("good", state="done")
    runs.update("bad", state="running", step=7)
    folder.put("runs/bad/run.json", folder.get("runs/bad/run.json").replace(b"7", b"8"))
    for call in (lambda: runs.info("bad"), lambda: runs.find("bad")):
        with pytest.raises(Damaged, match=r"runs/bad/run.json"):
            call()
    assert {info.name: info.state for info in runs.list()} == {"good": "done", "bad": "damaged"}
    runs.update("bad", state="running")
    assert "other fields are lost" in caplog.text
    assert runs.info("bad") == RunInfo("bad", "running", 0, runs.info("bad").updated)
