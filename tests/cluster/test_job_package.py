"""What travels with a submitted job: small files below the current folder, plugins, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.cluster.job_package import JobPackage, pack_predict, pack_search, pack_train
from regraft.cluster.visibility import proof
from regraft.errors import RegraftError, RequestError
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import bases_of
from regraft.store.objects import MARK, open_store
from regraft.tuning.driver.prepare import search_name
from support.tiny import document, tickets, tiny_bert


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobPackage:
    """An empty package; the current folder is tmp_path/user."""
    (tmp_path / "user").mkdir()
    (tmp_path / "package").mkdir()
    monkeypatch.chdir(tmp_path / "user")
    return JobPackage(tmp_path / "package")


def names(package: JobPackage) -> set[str]:
    return {str(path.relative_to(package.folder)) for path in package.folder.rglob("*") if path.is_file()}


def test_a_spec_travels_with_its_small_files_and_means_the_same_run_there(
    package: JobPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path.cwd()
    written = document(here) | {"base": "./base", "data": {"train": "train.csv", "eval": "*.csv"}}
    (here / ".env").write_text("SECRET=x")
    (here / "base" / ".env").write_text("SECRET=x")
    spec = RunSpec.resolve(written | {"store": "s3://bucket/x"})
    name = spec.run
    pack_train(package, spec, fresh=True)
    package.write_job_file()
    assert {"tiny.yaml", "train.csv", "eval.csv", "base/config.json", "regraft-job.json"} <= names(package)
    assert not [name for name in names(package) if ".env" in name]
    assert package.arguments == ["train", "tiny.yaml", "--store", "s3://bucket/x", "--fresh"]
    assert package.shared == []
    monkeypatch.chdir(package.folder)
    assert RunSpec.load(Path("tiny.yaml")).run == name


def test_test_rows_and_target_rows_travel_too(package: JobPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    written = document(Path.cwd()) | {"base": "./base", "losses": ["mcc"], "store": "s3://bucket/x"}
    for side in ("test", "target"):
        tickets(Path.cwd() / f"{side}.csv", 9)
        written["data"] = {**written["data"], side: f"{side}.csv"}
    spec = RunSpec.resolve(written)
    name = spec.run
    pack_train(package, spec, fresh=False)
    assert {"test.csv", "target.csv"} <= names(package)
    monkeypatch.chdir(package.folder)
    assert RunSpec.load(Path("tiny.yaml")).run == name


def test_files_of_stages_travel_and_the_chain_means_the_same_there(
    package: JobPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = document(Path.cwd()) | {"base": "./base", "store": "s3://bucket/x"}
    tickets(Path.cwd() / "texts.csv", 9)
    written["stages"] = [{"task": "masked-lm", "data": {"train": "texts.csv"}}]
    spec = RunSpec.resolve(written)
    name, stages = spec.run, [stage.run for stage in spec.stage_runs()]
    pack_train(package, spec, fresh=False)
    assert {"texts.csv", "base/config.json"} <= names(package) and package.shared == []
    monkeypatch.chdir(package.folder)
    there = RunSpec.load(Path("tiny.yaml"))
    assert there.run == name == package.metadata["run"]
    assert [stage.run for stage in there.stage_runs()] == stages


def test_a_search_travels_as_the_same_search(package: JobPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {
        "method": {"grid": ["feature-extraction", {"type": "lora", "rank": 2}]},
        "training.lr": {"loguniform": [1e-4, 1e-2]},
    }
    written = document(Path.cwd()) | {"base": "./base", "data": {"train": "train.csv", "eval": "eval.csv"}}
    spec = RunSpec.resolve(written | {"store": "s3://bucket/x", "search": {"space": space, "trials": 4}})
    name = search_name(spec)
    pack_search(package, spec, fresh=False)
    assert package.arguments == ["search", "tiny.yaml", "--store", "s3://bucket/x"]
    assert package.metadata["command"] == "search" and package.metadata["run"] == name
    monkeypatch.chdir(package.folder)
    there = RunSpec.load(Path("tiny.yaml"))
    assert there.search == spec.search
    assert search_name(there) == name, "what was begun here goes on there"


def test_every_base_of_a_search_travels(package: JobPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    written = document(Path.cwd()) | {"base": "./base", "data": {"train": "train.csv", "eval": "eval.csv"}}
    tiny_bert(Path("other"), layers=1)
    space = {"base": ["./base", "./other", "org/model"]}
    spec = RunSpec.resolve(written | {"store": "s3://bucket/x", "search": {"space": space, "trials": 4}})
    name = search_name(spec)
    pack_search(package, spec, fresh=False)
    assert {"base/config.json", "other/config.json"} <= names(package) and package.shared == []
    monkeypatch.chdir(package.folder)
    there = RunSpec.load(Path("tiny.yaml"))
    assert bases_of(there.search) == (str(Path("base").absolute()), str(Path("other").absolute()), "org/model")
    assert search_name(there) == name


def test_a_spec_without_a_space_is_refused_before_anything_is_sent(package: JobPackage) -> None:
    spec = RunSpec.resolve(document(Path.cwd()) | {"store": "s3://bucket/x"})
    with pytest.raises(RegraftError, match="search"):
        pack_search(package, spec, fresh=False)
    assert names(package) == set()


def test_what_is_elsewhere_or_large_must_be_seen_by_every_node(package: JobPackage, tmp_path: Path) -> None:
    (tmp_path / "far.csv").write_text("12345")
    Path("large.csv").write_text("x" * 1000)
    package.bytes_left = 500
    assert package.add_path(str(tmp_path / "far.csv"), "data.train") == str(tmp_path / "far.csv")
    assert package.add_path("large.csv", "data.eval") == str(Path.cwd() / "large.csv")
    assert [(item["where"], item["proof"]) for item in package.shared] == [("data.train", "5"), ("data.eval", "1000")]
    assert package.add_path("s3://bucket/rows.csv", "data.train") == "s3://bucket/rows.csv"
    assert names(package) == set()
    with pytest.raises(RequestError, match="no such file"):
        package.add_path("nowhere.csv", "data.train")


def test_parts_braces_and_files_that_name_others_bring_what_they_mean(package: JobPackage) -> None:
    for name in ("a.npz", "t.en", "t.de", "pictures/list.csv", "pictures/1.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("x")
    assert package.add_path("a.npz#train", "data.train") == "a.npz#train"
    assert package.add_path("t.{en,de}", "data.train") == "t.{en,de}"
    assert package.add_path("pictures/list.csv", "data.train", around=True) == "pictures/list.csv"
    assert names(package) == {"a.npz", "t.en", "t.de", "pictures/list.csv", "pictures/1.png"}


def test_plugins_travel_from_anywhere(package: JobPackage, tmp_path: Path) -> None:
    for folder in (tmp_path / "far", Path.cwd() / "near"):
        (folder / "losses" / "__pycache__").mkdir(parents=True)
        (folder / "losses" / "mine.py").write_text("")
        (folder / "losses" / "__pycache__" / "mine.pyc").write_text("")
    far, near = package.add_plugins([str(tmp_path / "far"), "near"])
    assert near == "near" and far.startswith("plugins-")
    assert names(package) == {"near/losses/mine.py", f"{far}/losses/mine.py"}


def test_a_store_in_a_folder_is_marked_until_it_was_looked_at(package: JobPackage, tmp_path: Path) -> None:
    store = package.output_folder("./store", "store")
    assert [item["where"] for item in package.shared] == ["store"]
    assert Path(package.shared[0]["path"]).is_file()
    package.close()
    assert not Path(store).exists(), "a folder that was made for it alone goes with it"
    package.output_folder("./store", "store")
    package.detach()
    package.close()
    assert len(list(Path(store).iterdir())) == 1


@pytest.mark.parametrize(
    ("output", "message"), [("answers.jsonl", "the job's own folder"), ("./x/answers.jsonl", "the job's own folder")]
)
def test_answers_that_would_vanish_with_the_job_are_refused(package: JobPackage, output: str, message: str) -> None:
    args: Any = type("Args", (), {"output": output, "model": "m"})
    with pytest.raises(RequestError, match=message):
        pack_predict(package, args, "s3://b/x")


def test_the_letter_holds_no_variable_of_the_environment(package: JobPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-key")
    spec = RunSpec.resolve(yaml.safe_load(yaml.safe_dump(document(Path.cwd()) | {"store": "s3://b/x"})))
    pack_train(package, spec, fresh=False)
    package.write_job_file()
    assert all(b"canary" not in path.read_bytes() for path in package.folder.rglob("*") if path.is_file())
    assert set(json.loads((package.folder / "regraft-job.json").read_text())) == {"regraft", "shared"}


def test_a_job_makes_a_store_in_a_new_folder_only(package: JobPackage, tmp_path: Path) -> None:
    written = document(Path.cwd())
    pack_train(package, RunSpec.resolve(written | {"store": str(tmp_path / "new")}), fresh=False)
    assert package.arguments[-1] == "--create"
    package.close()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="holds no store"):
        pack_train(package, RunSpec.resolve(written | {"store": str(tmp_path / "empty")}), fresh=False)
    assert list((tmp_path / "empty").iterdir()) == []


def predict_arguments(tmp_path: Path, **changes: Any) -> Any:
    (Path.cwd() / "rows.csv").write_text("text\na\n")
    given = {"output": str(tmp_path / "answers.jsonl"), "model": "m", "input": "rows.csv", "features": False}
    given |= {"fresh": False, "dtype": None, "format": None, "bad_rows": None, "workers": None}
    given |= {"budget_seconds": None, "budget_memory": None, "budget_store": None}
    return type("Args", (), {**given, "columns": [], "plugins": [], "base": None, **changes})


def test_a_prediction_takes_its_budget_along(package: JobPackage, tmp_path: Path) -> None:
    limits = {"budget_seconds": 60.0, "budget_memory": 2.5, "budget_store": 1.0}
    pack_predict(package, predict_arguments(tmp_path, features=True, **limits), str(tmp_path / "missing"))
    told = package.arguments
    for name, value in limits.items():
        assert told[told.index(f"--{name.replace('_', '-')}") + 1] == str(value)


def test_a_prediction_makes_no_store_and_puts_nothing_into_one(package: JobPackage, tmp_path: Path) -> None:
    missing, there = tmp_path / "missing", tmp_path / "store"
    with pytest.raises(RequestError, match="there is no such folder, and so no store"):
        pack_predict(package, predict_arguments(tmp_path), str(missing))
    pack_predict(package, predict_arguments(tmp_path, features=True), str(missing))
    assert not missing.exists()
    open_store(str(there)).create()
    before = sorted(there.iterdir())
    pack_predict(package, predict_arguments(tmp_path), str(there))
    assert sorted(there.iterdir()) == before
    assert {"where": "store", "path": str(there / MARK), "proof": proof(str(there / MARK))} in package.shared
