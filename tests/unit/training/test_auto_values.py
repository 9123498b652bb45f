"""A run with keys that are `auto`: what was chosen is said, used and stored, and kept by a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.contracts import Event, Note
from regraft.errors import Damaged
from regraft.spec.auto import KEYS, choose
from regraft.spec.run import RunSpec
from regraft.spec.stored import read_stored_spec
from regraft.store import documents
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.auto_values import CHOICE, with_numbers_of
from regraft.training.prepare import prepare
from regraft.training.session import train_local
from support.tiny import document

ROWS = 24
OLD = {"lr": 3e-4, "head_factor": 1.0, "epochs": 3, "warmup": 0.1}
"""What the keys stood for before `auto`."""


def spec_of(folder: Path, **training: Any) -> RunSpec:
    """Return a spec of two steps whose keys are open, but for those of `training`."""
    written = document(folder, rows=ROWS, eval_rows=12, steps=2)
    written["training"] = {key: value for key, value in written["training"].items() if key not in KEYS} | training
    return RunSpec.resolve(written)


def numbers(document: dict[str, Any]) -> dict[str, Any]:
    return {key: document["training"][key] for key in KEYS}


def test_what_was_chosen_is_said_and_stored_with_the_run_and_the_version(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, warmup=0.5)
    events: list[Event] = []
    outcome = train_local(spec, progress=events.append)
    chosen = choose(spec, ROWS)
    assert chosen.text in [event.message for event in events if isinstance(event, Note)]
    runs = Runs(open_store(spec.store))
    stored = read_stored_spec(runs.read(outcome.run, "spec.yaml"), "spec")
    version = Registry(runs.store).version("tiny")
    own = read_stored_spec((tmp_path / "store" / version.prefix / "spec.yaml").read_bytes(), "spec")
    assert numbers(dict(stored)) == numbers(dict(own)) == {**chosen.values, "warmup": 0.5}
    assert runs.info(outcome.run).fields[CHOICE] == chosen.values
    rates = [line["lr"] for line in runs.metric_lines(outcome.run) if "lr" in line]
    assert max(rates) <= chosen.values["lr"] * chosen.values["head_factor"] * (1 + 1e-9)


def test_the_same_spec_is_finished_and_written_numbers_are_another_run(tmp_path: Path) -> None:
    left_open, written = spec_of(tmp_path), spec_of(tmp_path, **OLD)
    first = train_local(left_open)
    assert train_local(left_open).already
    other = train_local(written)
    assert (other.run, other.already) == (f"{first.run}.2", False)
    assert train_local(written).run == other.run and train_local(left_open).run == first.run


@pytest.mark.parametrize("training", [{}, OLD], ids=["open", "written"])
def test_a_run_before_auto_is_the_run_of_an_open_spec_and_of_a_written_one(
    tmp_path: Path, training: dict[str, Any]
) -> None:
    run = train_local(spec_of(tmp_path, **OLD)).run
    store = open_store(str(tmp_path / "store"))

    def before(old: dict[str, Any] | None) -> dict[str, Any]:
        return {key: value for key, value in (old or {}).items() if key != CHOICE}

    documents.change(store, f"runs/{run}/run.json", before)
    found = train_local(spec_of(tmp_path, **training))
    assert (found.run, found.already) == (run, True)
    assert numbers(with_numbers_of(spec_of(tmp_path), run, {}).model_dump()) == OLD


def test_a_run_that_goes_on_keeps_its_numbers_though_the_defaults_have_changed(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    run = train_local(spec).run
    runs = Runs(open_store(spec.store))
    earlier = {"lr": 0.077, "head_factor": 2.0, "epochs": 4, "warmup": 0.25}
    runs.update(run, state="stopped", auto=earlier)
    events: list[Event] = []
    job = prepare(runs.store, spec, run, events.append)
    assert numbers(job.spec) == earlier
    assert not [event for event in events if isinstance(event, Note) and event.message.startswith("auto")]


def test_a_damaged_choice_is_named_with_its_run(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"some-run.*auto.*greater than 0"):
        with_numbers_of(spec_of(tmp_path), "some-run", {CHOICE: {"lr": -1.0}})
