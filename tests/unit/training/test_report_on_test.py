"""The registered version is measured on the test rows once, whatever interrupts the run, and they choose nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regraft import evaluate
from regraft.cli import main
from regraft.contracts import Event, MeasuredOnTest, Stepped
from regraft.errors import Stopped
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.session import train_local
from regraft.tuning.driver.local_worker import search_here
from support.tiny import document, tickets


def spec_of(folder: Path, *, test: Any = 0.25, **changes: Any) -> RunSpec:
    written = document(folder, epochs=2, rows=40, eval_rows=12, **changes)
    return RunSpec.resolve({**written, "data": {**written["data"], "test": test}})


def on_test(events: list[Event]) -> list[MeasuredOnTest]:
    return [event for event in events if isinstance(event, MeasuredOnTest)]


def lines(spec: RunSpec, run: str) -> list[dict[str, Any]]:
    return [dict(line) for line in Runs(open_store(spec.store)).metric_lines(run) if "test_accuracy" in line]


@pytest.mark.slow
def test_the_result_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, events = spec_of(tmp_path), list[Event]()
    outcome = train_local(spec, progress=events.append)
    [event] = on_test(events)
    version = Registry(open_store(spec.store)).version("tiny")
    test = version.meta["test"]
    assert test["metrics"] == outcome.test["metrics"] == event.metrics  # type: ignore[index]
    assert test["checkpoint"] == version.meta["lineage"]["checkpoint"]
    ends = test["intervals"]["accuracy"]
    assert ends["low"] <= test["metrics"]["accuracy"] <= ends["high"]
    assert version.meta["lineage"]["data"]["rows"]["test"] == test["rows"] > 2
    assert len(lines(spec, outcome.run)) == 1
    card = (tmp_path / "store" / version.prefix / "card.md").read_text()
    assert "which chose nothing in training" in card and "| test rows |" in card
    assert main(["models", "show", "tiny", "--store", spec.store]) == 0
    assert "test rows, once" in capsys.readouterr().out
    again, more = train_local(spec, progress=events.append), on_test(events)
    assert again.already and again.test == outcome.test and len(more) == 1


@pytest.mark.slow
def test_it_is_what_evaluate_finds_on_these_rows(tmp_path: Path) -> None:
    rows = tickets(tmp_path / "test.csv", 20, seed=5)
    spec = spec_of(tmp_path, test=str(rows))
    outcome = train_local(spec)
    found = evaluate("tiny", rows, tmp_path / "evaluation", store=spec.store, worst=0).document
    assert outcome.test is not None
    assert outcome.test["metrics"]["accuracy"] == pytest.approx(found["metrics"]["accuracy"])
    assert outcome.test["intervals"]["accuracy"] == pytest.approx(found["intervals"]["accuracy"])


def test_test_rows_choose_nothing(tmp_path: Path) -> None:
    plain = train_local(spec_of(tmp_path, test=None))
    other = train_local(spec_of(tmp_path, test=str(tickets(tmp_path / "test.csv", 9, seed=5))))
    metas = [Registry(open_store(str(tmp_path / "store"))).version("tiny", one.version).meta for one in (plain, other)]
    assert metas[0]["delta_sha256"] == metas[1]["delta_sha256"] and metas[0]["metrics"] == metas[1]["metrics"]
    assert "test" not in metas[0] and plain.test is None


@pytest.mark.slow
def test_a_stopped_run_reports_once_at_its_end(tmp_path: Path) -> None:
    spec, events = spec_of(tmp_path), list[Event]()
    runs = Runs(open_store(spec.store))

    def stop(event: Event) -> None:
        events.append(event)
        if isinstance(event, Stepped) and event.step == 3:
            runs.request_stop(spec.run)
            while not runs.stop_requested(spec.run):
                pass

    try:
        train_local(spec, progress=stop)
        stopped = False
    except Stopped:
        stopped = True
    assert len(on_test(events)) == (0 if stopped else 1), "nothing is measured before the end"
    outcome = train_local(spec, progress=events.append)
    assert outcome.test is not None and len(on_test(events)) == 1
    assert len(lines(spec, outcome.run)) == 1


@pytest.mark.slow
def test_a_run_that_died_before_its_registration_does_not_measure_again(tmp_path: Path) -> None:
    spec, events = spec_of(tmp_path), list[Event]()
    first = train_local(spec, progress=events.append)
    store = open_store(spec.store)
    Runs(store).update(first.run, state="running")
    Registry(store).delete("tiny", first.version)
    again = train_local(spec, progress=events.append)
    assert (again.version, again.test) == ("v2", first.test) and len(on_test(events)) == 1
    assert len(lines(spec, again.run)) == 1


@pytest.mark.slow
def test_a_search_measures_what_it_registers(tmp_path: Path) -> None:
    written = document(tmp_path, method="feature-extraction", epochs=2, rows=40, eval_rows=12)
    search = {"space": {"training.lr": {"choice": [1e-3, 1e-2, 1e-1]}}, "sampler": "grid", "scheduler": "none"}
    spec = RunSpec.resolve({**written, "data": {**written["data"], "test": 0.25}, "search": search})
    events: list[Event] = []
    outcome = search_here(spec, progress=events.append)
    [event] = on_test(events)
    assert event.trial == outcome.winner and outcome.test is not None
    assert outcome.document()["test"]["metrics"] == event.metrics
    report = Path(outcome.report).read_text()
    assert "measured once on" in report
    again = search_here(spec, progress=events.append)
    assert again.already and again.test == outcome.test and len(on_test(events)) == 1


@pytest.mark.slow
def test_the_run_shows_the_result_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = spec_of(tmp_path)
    (tmp_path / "spec.yaml").write_text(spec.dump())
    assert main(["train", str(tmp_path / "spec.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test"]["metrics"]["accuracy"] is not None and found["test"]["rows"] > 2
