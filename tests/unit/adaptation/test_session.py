"""`regraft adapt` as a whole: trains, looks, chooses, registers, goes on, and checks by labels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import regraft
from doubles.fake_s3 import FakeS3
from regraft.adaptation.session import AdaptOptions, adapt_session, adaptation_name
from regraft.adaptation.sides import LinearHead
from regraft.cli import main
from regraft.errors import ClusterError, DataError
from regraft.spec.run import RunSpec
from regraft.store.adaptations import folder_of, read_adaptation
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.registration import Outcome
from regraft.training.session import Finish, complete, train_local
from support.local_s3 import local_server
from support.tiny import document, tickets

pytestmark = pytest.mark.slow


def skewed(path: Path, rows: int, *, keep: float = 0.1, around: str = "", seed: int = 5) -> Path:
    """Write tickets of which most have one label, with words around each text."""
    draw = random.Random(seed)
    head, *lines = tickets(path, 2 * rows, seed=seed).read_text().splitlines()
    pairs = [line.rsplit(",", 1) for line in lines]
    kept = [f"{around}{text}{around},{label}" for text, label in pairs if label == "light" or draw.random() < keep]
    path.write_text("\n".join([head, *kept[:rows]]) + "\n")
    return path


def spec_in(folder: Path, **data: Any) -> dict[str, Any]:
    written = document(folder, method="feature-extraction", rows=160, eval_rows=120, epochs=12, lr=1e-2)
    return {
        **written,
        "data": {**written["data"], **data},
        "compute": {**written["compute"], "trunk": "auto"},
    }


def trained(spec: RunSpec, finish: Finish | None) -> Outcome:
    return train_local(spec, finish=finish or complete)


def rotated(head: LinearHead) -> LinearHead:
    return LinearHead(head.weight * 2, head.bias * 2)


@pytest.fixture(scope="module")
def moved_prior(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A source with equal classes and a target in which nearly all rows are of one class."""
    folder = tmp_path_factory.mktemp("prior")
    skewed(folder / "target.csv", 200)
    skewed(folder / "check.csv", 90, seed=6)
    return spec_in(folder, target=str(folder / "target.csv"))


def test_a_moved_prior_is_folded_into_a_new_version_that_answers_as_any_other(moved_prior: dict[str, Any]) -> None:
    check = str(Path(moved_prior["data"]["target"]).with_name("check.csv"))
    found = regraft.adapt(moved_prior, check=check, progress=lambda event: None)
    assert (found.adapted, found.chosen, found.source, found.version) == (True, "prior", "tiny@v1", "v2")
    assert found.diagnosis["kind"] == "label"
    store = open_store(found.store)
    meta = Registry(store).version("tiny", "v2").meta
    assert meta["adapt"]["chosen"] == "prior" and meta["lineage"]["adapted_from"] == "tiny@v1"
    assert "gain" not in meta and set(meta["metrics"]) == set(Registry(store).version("tiny", "v1").meta["metrics"])
    rows = [{"text": line.rsplit(",", 1)[0]} for line in Path(check).read_text().splitlines()[1:]]
    lights = [
        sum(answer["label"] == "light" for answer in regraft.load(f"tiny@{one}", store=found.store).predict(rows))
        for one in ("v1", "v2")
    ]
    assert lights[1] > lights[0]
    assert found.check is not None and found.check["difference"] >= 0 and found.check["low"] is not None
    assert "Chosen for rows of another domain" in store.get("models/tiny/v2/card.md").decode()


def test_the_same_command_returns_what_was_decided(moved_prior: dict[str, Any]) -> None:
    first = regraft.adapt(moved_prior, progress=lambda event: None)
    again = regraft.adapt(moved_prior, progress=lambda event: None)
    assert again.already and again.version == first.version
    assert [one.version for one in Registry(open_store(first.store)).versions("tiny")] == ["v1", "v2"]
    page = open_store(first.store).get(f"{folder_of(first.run)}/adapt.html").decode()
    assert "The risk." in page and "<script" not in page and first.why in page.replace("&#39;", "'")


def test_an_interrupted_command_goes_on_with_its_finished_runs(tmp_path: Path) -> None:
    around = "blue red blue red "
    target = skewed(tmp_path / "target.csv", 120, keep=1.0, around=around)
    spec = RunSpec.resolve(spec_in(tmp_path, target=str(target)))
    calls: list[str] = []

    def stops(one: RunSpec, finish: Finish | None) -> Outcome:
        calls.append(one.run)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return trained(one, finish)

    with pytest.raises(KeyboardInterrupt):
        adapt_session(spec, stops, AdaptOptions(("mcc",)))
    store = open_store(spec.store)
    runs, (name,) = Runs(store), {one.key.split("/")[1] for one in store.list("adaptations/")}
    stopped = read_adaptation(store, name)
    assert stopped is not None and stopped["state"] == "stopped"
    before = runs.info(calls[0]).fields["updated"]
    found = adapt_session(spec, stops, AdaptOptions(("mcc",)))
    assert calls[2] == calls[0] and runs.info(calls[0]).fields["updated"] == before
    assert runs.info(calls[1]).state == "finished"
    assert [one["name"] for one in found.candidates] == ["source-only", "mcc"]
    assert found.candidates[1]["run"] == calls[1]
    assert [one.version for one in Registry(store).versions("tiny")] == ["v1"] + ["v2"] * found.adapted


def test_no_shift_means_do_not_adapt_and_nothing_is_trained_or_registered(tmp_path: Path) -> None:
    target = tickets(tmp_path / "target.csv", 90, seed=8)
    spec = RunSpec.resolve(spec_in(tmp_path, target=str(target)))
    calls: list[str] = []

    def counted(one: RunSpec, finish: Finish | None) -> Outcome:
        calls.append(one.run)
        return trained(one, finish)

    found = adapt_session(spec, counted, AdaptOptions(heads={"twice": rotated}, check=str(target)))
    assert not found.adapted and found.version == "v1" and found.headline == "do not adapt"
    assert len(calls) == 1
    assert found.candidates[-1]["validators"] == {} and "no model was trained" in found.candidates[-1]["verdict"]
    assert found.check is not None and found.check["verdict"] == ""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("one row", "text\nlamp is off\n", "data.target has 1 row"),
        ("other columns", "body\nlamp\nbulb\n", "text"),
    ],
)
def test_unusable_target_rows_are_refused_before_a_run(name: str, text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "target.csv").write_text(text)
    spec = spec_in(tmp_path, target=str(tmp_path / "target.csv"))
    with pytest.raises(DataError, match=expected):
        regraft.adapt(spec)
    assert Runs(open_store(spec["store"])).list() == []


def test_a_loss_that_is_asked_for_and_too_few_evaluation_rows_are_refused_before_a_run(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, target=str(tickets(tmp_path / "target.csv", 5, seed=8)))
    with pytest.raises(DataError, match=r"data\.target has 5 rows, fewer than training\.batch_size"):
        regraft.adapt(spec, ladder=["mcc"])
    one = tickets(tmp_path / "one.csv", 1, seed=9)
    with pytest.raises(DataError, match=r"data\.eval has 1 row"):
        regraft.adapt({**spec, "data": {**spec["data"], "eval": str(one)}})
    assert Runs(open_store(spec["store"])).list() == []


def test_a_machine_that_fails_decides_nothing_and_the_same_command_goes_on(tmp_path: Path) -> None:
    target = skewed(tmp_path / "target.csv", 90, keep=1.0, around=" zoom ")
    spec = RunSpec.resolve(spec_in(tmp_path, target=str(target)))

    def broken(one: RunSpec, finish: Finish | None) -> Outcome:
        if finish is not None:
            raise ClusterError("Ray lost its workers")
        return trained(one, finish)

    options = AdaptOptions(ladder=("mcc",))
    with pytest.raises(ClusterError):
        adapt_session(spec, broken, options)
    store, name = open_store(spec.store), adaptation_name(spec, options)
    assert (read_adaptation(store, name) or {})["state"] == "failed"
    assert adapt_session(spec, trained, options).candidates[1]["name"] == "mcc"
    assert (read_adaptation(store, name) or {})["state"] == "finished"


def test_rows_of_a_check_that_training_saw_are_counted(tmp_path: Path) -> None:
    written = spec_in(tmp_path, target=str(tickets(tmp_path / "target.csv", 60, seed=8)))
    found = regraft.adapt(written, ladder=[], check=written["data"]["train"])
    assert found.check is not None and found.check["seen"]["train"] == found.check["rows"]
    assert "were training rows of this version" in found.check["sentence"]


def test_unusable_check_rows_are_refused_before_a_run(tmp_path: Path) -> None:
    target = tickets(tmp_path / "target.csv", 30, seed=8)
    (tmp_path / "check.csv").write_text("text,label\nlamp is off,place\n")
    spec = spec_in(tmp_path, target=str(target))
    with pytest.raises(DataError, match="--check: label 'place' is written; the model knows entry, light, money"):
        regraft.adapt(spec, check=tmp_path / "check.csv")
    assert Runs(open_store(spec["store"])).list() == []


def test_the_command_prints_one_object_and_refuses_with_exit_code_2(
    moved_prior: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(RunSpec.resolve(moved_prior).dump())
    assert main(["adapt", str(path), "--store", moved_prior["store"]]) == 0
    printed = capsys.readouterr().out
    assert "candidates" in printed and "risk" in printed and "--check ROWS" in printed
    assert main(["adapt", str(path), "--store", moved_prior["store"], "--set", "data.target=null"]) == 2
    assert "data.target" in capsys.readouterr().err
    assert main(["adapt", str(path), "--store", moved_prior["store"], "--ladder", "mc"]) == 2
    assert "Did you mean 'mcc'" in capsys.readouterr().err
    assert main(["adapt", str(path), "--store", moved_prior["store"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["already"] is True


def test_a_store_in_s3_holds_the_record_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = skewed(tmp_path / "target.csv", 60)
    with FakeS3() as server:
        local_server(monkeypatch, server.endpoint)
        written = {**spec_in(tmp_path, target=str(target)), "store": "s3://b/store"}
        written["training"] = {**written["training"], "epochs": 1}
        found = regraft.adapt(written, ladder=["zscore"], progress=lambda event: None)
        assert found.page.startswith("s3://b/store/adaptations/")
        assert open_store(found.store).exists(f"{folder_of(found.run)}/adapt.html")
        assert regraft.adapt(written, ladder=["zscore"], progress=lambda event: None).already
