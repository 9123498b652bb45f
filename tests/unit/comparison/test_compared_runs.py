"""`compare=True`: controls are runs that resume and are found again; the verdict is in version, card and pages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.comparison.controls import control_runs
from regraft.comparison.measuring import ComparedRows
from regraft.comparison.session import Comparing
from regraft.contracts import Event, Note, Started
from regraft.data.snapshot import open_snapshot
from regraft.errors import ClusterError, Diverged, Stopped, StoreError, Unsupported
from regraft.serving.predictor import Predictor
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.store.comparisons import read_comparison
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.harness import LocalHarness
from regraft.training.session import train_local
from support.tiny import document


class Seen:
    """The events of a command."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def runs(self) -> list[str]:
        return [event.run for event in self.events if isinstance(event, Started)]

    @property
    def notes(self) -> str:
        return "\n".join(event.message for event in self.events if isinstance(event, Note))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any], Seen]]:
    """A compared training of a tiny model: outcome, spec and events."""
    spec = document(tmp_path_factory.mktemp("compared"), rows=48, eval_rows=24, epochs=1)
    seen = Seen()
    yield regraft.train(spec, compare=True, progress=seen), spec, seen


def version_of(outcome: Any) -> Any:
    registry = Registry(open_store(outcome.store))
    return registry.version(outcome.model, outcome.version)


def test_every_control_is_there_or_says_why_not(compared: Any) -> None:
    found = compared[0].comparison
    assert {one["name"] for one in found["controls"]} == {"majority", "words", "random_weights", "frozen_probe"}
    assert {one["name"] for one in found["left_out"]} == {"last_version"}
    assert found["rows"] == 24
    for one in found["controls"]:
        assert one["low"] <= one["difference"] <= one["high"]
        assert one["difference"] == pytest.approx(found["value"] - one["value"])
        assert one["knows_base"] == (one["name"] == "frozen_probe")


def test_a_base_of_random_weights_is_warned_of(compared: Any) -> None:
    found = compared[0].comparison
    assert found["negative_transfer"] is True
    assert found["warning"].startswith("Negative transfer") and "words" in found["warning"]


def test_only_the_model_itself_is_registered(compared: Any) -> None:
    outcome, _, seen = compared
    store = open_store(outcome.store)
    assert Registry(store).models() == ["tiny"]
    assert len(seen.runs) == 3
    assert {info.state for info in Runs(store).list()} == {"registered", "finished"}
    assert "control 1 of 2 runs" in seen.notes and "random weights" in seen.notes


def test_the_control_from_random_weights_takes_the_steps_of_the_run(compared: Any) -> None:
    controls = {one["name"]: one for one in compared[0].comparison["controls"]}
    assert controls["random_weights"]["steps"] == 6
    assert controls["random_weights"]["method"] == "full"


def test_the_verdict_is_in_the_metadata_the_card_and_a_page(compared: Any, tmp_path: Path) -> None:
    outcome = compared[0]
    version = version_of(outcome)
    assert version.meta["comparison"]["controls"] == outcome.comparison["controls"]
    card = (Registry(version.store).fetch(version, tmp_path) / "card.md").read_text()
    assert "| random weights |" in card and "this model minus it" in card
    found = read_comparison(version)
    assert found is not None and found["controls"] == outcome.comparison["controls"]
    page = version.store.get("comparisons/tiny/v1.html").decode()
    assert "random weights" in page and "<script" not in page


def test_a_second_comparison_trains_no_control_again(compared: Any) -> None:
    _, spec, _ = compared
    seen = Seen()
    changed = {**spec, "training": {**spec["training"], "lr": 5e-4}}
    outcome = regraft.train(changed, compare=True, progress=seen)
    trained = [run for run in seen.runs if "random-weights" in run or "frozen-probe" in run]
    assert trained == []
    names = {one["name"]: one for one in outcome.comparison["controls"]}
    assert names["last_version"]["version"] == "tiny@v1"
    assert {"random_weights", "frozen_probe"} <= names.keys()


def test_models_are_compared_on_test_rows_where_there_are_some(compared: Any) -> None:
    outcome, written, _ = compared
    store, version = open_store(outcome.store), version_of(outcome)
    snapshot = open_snapshot(store, version.meta["lineage"]["data"]["fingerprint"])
    spec = resolve_auto(RunSpec.resolve(written), 48)
    predictor = Predictor.open(store, str(version))
    found = {}
    for test in (None, snapshot.eval, snapshot.train):
        rows = ComparedRows(store, spec, replace(snapshot, test=test), LocalHarness())
        comparing = Comparing(Failing(Diverged("the loss is nan")), None)
        found[None if test is None else len(test)] = comparing._compared(rows, predictor.adapted, None)
    assert [(one["side"], one["rows"]) for one in found.values()] == [("eval", 24), ("test", 24), ("test", 48)]
    assert found[48]["value"] != found[24]["value"] == outcome.comparison["value"] == found[None]["value"]
    assert {one["name"] for one in found[48]["controls"]} == {"majority", "words"}


@pytest.mark.parametrize("began", ["random", "pretrained"])
def test_a_run_that_begins_with_random_weights_says_nothing_of_a_base(compared: Any, began: str) -> None:
    outcome, written, _ = compared
    store, version = open_store(outcome.store), version_of(outcome)
    snapshot = open_snapshot(store, version.meta["lineage"]["data"]["fingerprint"])
    spec = resolve_auto(RunSpec.resolve({**written, "training": {**written["training"], "init": began}}), 48)
    rows = ComparedRows(store, spec, snapshot, LocalHarness())
    found = Comparing(Failing(Unsupported("none")), None)._compared(
        rows, Predictor.open(store, str(version)).adapted, None
    )
    assert ("began with random weights" in found["warning"]) is (began == "random")
    assert found["negative_transfer"] is (None if began == "random" else True)


@pytest.mark.slow
def test_a_version_that_is_registered_is_compared_afterwards(tmp_path: Path) -> None:
    spec = document(tmp_path, method="feature-extraction", rows=24, eval_rows=12, epochs=1)
    first = regraft.train(spec, progress=Seen())
    assert first.comparison is None and "comparison" not in first.document()
    again = regraft.train(spec, compare=True, progress=Seen())
    assert (again.version, again.already) == (first.version, True)
    assert "random_weights" in {one["name"] for one in again.comparison["controls"]}
    assert any(one["name"] == "frozen_probe" for one in again.comparison["left_out"])
    known = regraft.train(spec, progress=Seen())
    assert known.comparison["controls"] == again.comparison["controls"]


@pytest.mark.slow
def test_the_winner_of_a_search_is_compared(tmp_path: Path) -> None:
    spec = document(tmp_path, method="feature-extraction", rows=24, eval_rows=12, epochs=1)
    space = {"space": {"training.lr": {"grid": [1e-3, 1e-2]}}, "sampler": "grid", "scheduler": "none"}
    outcome = regraft.search({**spec, "search": space}, compare=True, progress=Seen())
    assert outcome.comparison is not None
    assert outcome.document()["comparison"] == outcome.comparison
    names = {one["name"]: one for one in outcome.comparison["controls"]}
    assert names["random_weights"]["steps"] == 3  # the steps of the winner, not those of the search
    version = Registry(open_store(outcome.store)).version(outcome.model, outcome.version or "")
    assert (read_comparison(version) or {})["controls"] == outcome.comparison["controls"]


@pytest.mark.slow
def test_a_model_without_evaluation_rows_is_registered_without_controls(tmp_path: Path) -> None:
    spec = document(tmp_path, method="prototypes", rows=3)
    spec["data"]["eval"] = 0.1
    for _ in range(2):
        seen = Seen()
        outcome = regraft.train(spec, compare=True, progress=seen)
        assert (outcome.version, outcome.comparison) == ("v1", {})
        assert "no evaluation row is there to compare on" in seen.notes


class Failing:
    """Trains no control, but raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, spec: RunSpec, finish: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        Diverged("the loss is nan"),
        Unsupported("this base has no head"),
        Stopped("budget.seconds: 5 are about to be spent", where="tiny.random-weights"),
    ],
)
def test_a_control_that_fails_is_left_out_with_the_reason(compared: Any, error: Exception) -> None:
    found, left_out = controls_with(compared, Failing(error))
    assert found == []
    assert left_out == [(name, error.message) for name in ("random_weights", "frozen_probe")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [Stopped("SIGTERM"), ClusterError("a node is gone"), StoreError("no space")])
def test_what_the_same_command_can_go_on_with_ends_it(compared: Any, error: Exception) -> None:
    with pytest.raises(type(error)):
        controls_with(compared, Failing(error))


def test_the_time_of_controls_is_no_part_of_the_time_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = document(tmp_path, method="feature-extraction", rows=24, eval_rows=12, epochs=1)
    ahead = [0.0]
    monkeypatch.setattr("regraft.training.run_times.now", lambda: time.time() + ahead[0])

    def train(error: Exception) -> Comparing:
        def control(spec: RunSpec, finish: Any) -> Any:
            ahead[0] += 5000
            raise error

        return Comparing(control, None)

    runs = Runs(open_store(written["store"]))
    with pytest.raises(StoreError):
        train_local(RunSpec.resolve(written), finish=train(StoreError("no space")).finish)
    (info,) = runs.list()
    assert info.fields["spent_s"] < 1000
    limited = RunSpec.resolve({**written, "budget": {"seconds": 1000}})
    outcome = train_local(limited, finish=train(Diverged("the loss is nan")).finish)
    assert (runs.find(outcome.run) or {})["spent_s"] < 1000 and outcome.version == "v1"


def controls_with(compared: Any, train: Any) -> tuple[list[Any], list[tuple[str, str]]]:
    """Return the trained controls of the model, and what was left out."""
    outcome, written, _ = compared
    store, left_out = open_store(outcome.store), list[tuple[str, str]]()
    spec = resolve_auto(RunSpec.resolve(written), 48)
    snapshot = open_snapshot(store, version_of(outcome).meta["lineage"]["data"]["fingerprint"])
    rows = ComparedRows(store, spec, snapshot, LocalHarness())
    return list(Comparing(train, None)._trained(rows, left_out)), left_out


@pytest.mark.parametrize(
    ("method", "training", "steps", "left_out"),
    [
        ("full", {"epochs": 3}, 9, ()),
        ({"type": "lora", "rank": 2}, {"steps": 5}, 5, ()),
        ("feature-extraction", {"epochs": 40}, 60, ("frozen_probe",)),
        ("feature-extraction", {"epochs": 2}, 6, ("frozen_probe",)),
        ("prototypes", {}, None, ("frozen_probe",)),
        ("full", {"init": "random"}, 6, ("random_weights", "frozen_probe")),
    ],
)
def test_controls_have_the_budget_of_the_run(
    method: Any, training: dict[str, Any], steps: int | None, left_out: tuple[str, ...], tmp_path: Path
) -> None:
    spec = resolve_auto(RunSpec.resolve(document(tmp_path, method=method, **training)), 24)
    found = {one.name: one for one in control_runs(spec, 24)}
    assert tuple(name for name, one in found.items() if one.spec is None) == left_out
    assert all(bool(one.why) == (one.spec is None) for one in found.values())
    random = found["random_weights"].spec
    if random is not None:
        assert (random.training.steps, random.training.init) == (steps, "random")
        assert RunSpec.resolve(random.model_dump(mode="json")).run == random.run
        assert random.name == "tiny.random-weights"
