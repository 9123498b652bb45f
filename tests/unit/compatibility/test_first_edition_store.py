"""A store that the first edition (commit b83c3a5) wrote is opened, continued, and gives the same answers.

What lies in `first_edition/` was made once, by the code of that commit, and is never made again: see its README.
`expected.json` and `expected.safetensors` hold what b83c3a5 itself made of it. Each test unpacks the store into a
folder of its own, elsewhere than where it was written, and stands in it.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import regraft
from regraft.cli import main

WRITTEN = Path(__file__).parent / "first_edition"
EXPECTED: dict[str, Any] = json.loads((WRITTEN / "expected.json").read_text(encoding="utf-8"))
WITHIN = 1e-6
ALL = 1054
"""Rows of a whole prediction; one block of 1024 is answered."""
HERE = "/proc/self/cwd"
"""The current directory by a name that is the same wherever it is: by it b83c3a5 knows pictures by the same paths."""
PLANTED = "planted"

Events = list[Mapping[str, Any]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store, with its specs, rows and bases, below the current directory."""
    folder = tmp_path / "home"
    with tarfile.open(WRITTEN / "home.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("REGRAFT_HUB_MIRROR", "hub")
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    for name in ("REGRAFT_STORE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # it was written on a CPU
    return folder


def same(found: Any, wanted: Any, where: str = "") -> None:
    """Numbers within 1e-6, anything else equal; a mapping may hold more than it once did."""
    if isinstance(wanted, Mapping):
        assert isinstance(found, Mapping) and wanted.keys() <= found.keys(), where
        for key, value in wanted.items():
            same(found[key], value, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(found, list) and len(found) == len(wanted), where
        for number, value in enumerate(wanted):
            same(found[number], value, f"{where}[{number}]")
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=WITHIN, rel=0), where
    else:
        assert found == wanted, where


def same_delta(model: str, version: str, name: str) -> None:
    """The version's delta is the one that is written down under `name`."""
    written = load_file(WRITTEN / "expected.safetensors")
    wanted = {key.removeprefix(f"{name}/"): value for key, value in written.items() if key.startswith(f"{name}/")}
    found = load_file(f"store/models/{model}/{version}/delta.safetensors")
    assert wanted and found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=WITHIN, err_msg=key)


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())


def trained(name: str) -> Events:
    """Train a spec to its end, which must be the expected one; return the documents of its progress events."""
    wanted, events = EXPECTED["runs"][name], Events()
    outcome = regraft.train(f"{name}.yaml", progress=lambda event: events.append(event.document()))
    assert (outcome.run, outcome.version, outcome.already) == (wanted["run"], wanted["version"], False)
    same(outcome.metrics, wanted["metrics"])
    same(outcome.baselines, wanted["baselines"])
    same(lines(f"store/runs/{outcome.run}/metrics.jsonl"), wanted["series"])
    same_delta(outcome.model, outcome.version, name)
    return events


def continued(name: str) -> None:
    """A run that was stopped goes on under its name, from the step where it stood."""
    runs = sorted(Path("store/runs").iterdir())
    events = trained(name)
    assert sorted(Path("store/runs").iterdir()) == runs, "it was started again under another name"
    first = min(event["step"] for event in events if event["event"] == "step")
    assert first == EXPECTED["runs"][name]["stopped"] + 1, "it did not go on where it stood"
    assert regraft.train(f"{name}.yaml").already


def test_a_run_on_texts_that_stopped_half_way_ends_as_it_would_have() -> None:
    continued("texts")


def test_a_run_on_pictures_that_stopped_half_way_ends_as_it_would_have() -> None:
    continued("pictures")


def test_a_run_on_pictures_that_are_known_by_their_paths_ends_as_it_would_have() -> None:
    continued("photos")


def test_a_search_that_stopped_half_way_ends_as_it_would_have() -> None:
    wanted = EXPECTED["search"]
    folder = Path("store/searches") / wanted["run"]
    before = {trial["id"]: trial for trial in lines(folder / "trials.jsonl")}
    assert [trial["status"] for trial in before.values()] == ["finished", "finished", "waiting"]
    outcome = regraft.search("searched.yaml")
    assert (outcome.run, outcome.version, outcome.winner) == (wanted["run"], wanted["version"], wanted["winner"])
    assert [path.name for path in folder.parent.iterdir()] == [wanted["run"]], "it was started again under another name"
    after = lines(folder / "trials.jsonl")
    same(after, wanted["trials"])
    same(outcome.metrics, wanted["metrics"])
    same(outcome.baselines, wanted["baselines"])
    same_delta(outcome.model, str(outcome.version), "searched")
    for trial in after[:2]:  # the seconds of a trial that had run again would be others
        assert trial["reports"] == before[trial["id"]]["reports"], "what was finished ran again"
    assert after[2]["reports"][0] == before["t0002"]["reports"][0], "what was under way did not go on where it stood"
    assert regraft.search("searched.yaml").already


def test_a_version_gives_the_same_answers() -> None:
    wanted = EXPECTED["version"]
    for reference in ("tickets@v1", "tickets@production"):
        model = regraft.load(reference, store="store")
        assert list(model.labels) == wanted["labels"]
        same(model.predict(wanted["rows"]), wanted["answers"])


def test_a_version_is_evaluated_to_the_same_metrics() -> None:
    found = regraft.evaluate("tickets@v1", "rows/eval.csv", "page", store="store", resamples=20, worst=1)
    same(found.document["metrics"], EXPECTED["version"]["metrics"])


def test_a_run_finds_the_trunk_that_an_earlier_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    as_written(monkeypatch)
    kept = files("store/features")
    assert kept
    events = trained("tickets-again")
    assert files("store/features") == kept, "rows were computed again, and kept a second time"
    assert not [event for event in events if event["event"] == "trunk"], "rows were computed again"


def as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say the versions by which kept values are known, where others are installed now: rounding is compared anyway."""
    for module, name in ((torch, "torch"), (transformers, "transformers"), (PIL, "pillow")):
        written = EXPECTED["made by"]["versions"][name]
        if installed(name).split("+")[0] != written.split("+")[0]:
            monkeypatch.setattr(module, "__version__", type(module.__version__)(written))


def test_a_prediction_on_texts_that_stopped_half_way_goes_on_with_what_was_answered() -> None:
    def change(content: bytes) -> bytes:
        return content.replace(b'"r7"', f'"{PLANTED}"'.encode(), 1)

    planted(".texts.jsonl.unfinished", change)
    command = ["predict", "tickets@production", "ask.csv", "--output", "texts.jsonl", "--store", "store"]
    assert main([*command, "--workers", "0", "--json"]) == 0
    as_expected("texts", lines("texts.jsonl"))


def test_a_prediction_on_pictures_that_stopped_half_way_goes_on_with_what_was_answered() -> None:
    def change(content: bytes) -> bytes:
        table = pq.read_table(pa.BufferReader(content))
        ids = [PLANTED if value == "r7" else value for value in table["id"].to_pylist()]
        table = table.set_column(table.schema.get_field_index("id"), "id", pa.array(ids))
        changed = pa.BufferOutputStream()
        pq.write_table(table, changed)
        return bytes(changed.getvalue())

    planted(".photos.parquet.unfinished", change)
    written = regraft.predict("colours@v1", f"{HERE}/photos/ask.csv", "photos.parquet", store="store", workers=0)
    assert written.rows == ALL
    as_expected("photos", pq.read_table("photos.parquet").to_pylist())


def planted(folder: str, change: Callable[[bytes], bytes]) -> None:
    """Change the one part that is there, so that it is told from the same rows computed again."""
    (part,) = (Path(folder) / "parts").iterdir()
    content = change(part.read_bytes())
    number, failed, rest = part.name.split("-")
    part.with_name(f"{number}-{failed}-{hashlib.sha256(content).hexdigest()}.{rest.partition('.')[2]}").write_bytes(
        content
    )
    part.unlink()


def as_expected(kind: str, found: list[dict[str, Any]]) -> None:
    """Every row has its answer, in order; row 7 is the part's own, and nothing unfinished is left."""
    wanted = EXPECTED["predict"][kind]
    assert [line["id"] for line in found] == [PLANTED if row == 7 else f"r{row}" for row in range(ALL)]
    same(found, [{**wanted[row % len(wanted)], "row": row} for row in range(ALL)])
    assert not [path.name for path in Path().iterdir() if path.name.startswith(f".{kind}.")]


def test_the_command_line_tells_what_the_store_holds(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*words: str) -> dict[str, Any]:
        assert main([*words, "--store", "store", "--json"]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    listed = printed("runs", "list")
    states = {run["model"]: run["state"] for run in listed["runs"]}
    assert states == {
        **dict.fromkeys(("texts", "pictures", "photos"), "stopped"),
        **dict.fromkeys(("tickets", "colours"), "registered"),
    }
    assert [(search["search"], search["state"]) for search in listed["searches"]] == [
        (EXPECTED["search"]["run"], "interrupted")
    ]
    models = {model["name"]: (model["versions"], model["aliases"]) for model in printed("models", "list")["models"]}
    assert models == {"colours": (["v1"], {}), "tickets": (["v1"], {"production": "v1"})}
    assert printed("runs", "show", EXPECTED["runs"]["texts"]["run"])["checkpoints"]


def test_specs_of_every_task_method_loss_and_source_name_their_runs_as_they_did() -> None:
    from regraft.spec.run import RunSpec  # what `train` takes beside a mapping

    for known in EXPECTED["names"]:
        assert RunSpec.resolve(known["spec"]).run == known["run"], known["spec"]
