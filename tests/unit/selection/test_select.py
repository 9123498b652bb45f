"""`regraft select` as a whole: what it computes is found again, only training rows choose, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import regraft
from regraft.bases.derived_base import find_base
from regraft.cli import main
from regraft.contracts import Event, Task, TrunkProgress
from regraft.data.snapshot import build_snapshot
from regraft.errors import RegraftError
from regraft.selection.direct_features import direct_cuts, direct_values
from regraft.selection.features import base_features
from regraft.selection.measured_base import SelectWork, base_site
from regraft.selection.pooling import pooled
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.selections import read_selection, selections
from regraft.training.session import train_local
from support.tiny import document, tickets, tiny_bert
from unit.every.rows import base_of, family_of, keys_of, task_of
from unit.every.test_frozen_of_every_task import spec_of

HEADS = "feature-extraction"


def quiet(event: Event) -> None:
    """Show nothing."""


def two_bases(folder: Path) -> list[str]:
    return [str(tiny_bert(folder / f"base-{layers}", layers=layers, seed=layers)) for layers in (1, 2)]


def spec_in(folder: Path, method: Any = HEADS, rows: int = 60) -> dict[str, Any]:
    written = document(folder, method=method, rows=rows)
    return {**written, "compute": {**written["compute"], "trunk": "disk"}}


def rows_of_bases(outcome: Any) -> dict[str, tuple[int, int]]:
    return {Path(one["base"]).name: (one["rows"]["computed"], one["rows"]["found"]) for one in outcome.bases}


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str], Any]:
    """A spec, its bases and the outcome of their selection."""
    folder = tmp_path_factory.mktemp("select")
    written, bases = spec_in(folder, {"type": "freeze", "depth": 1}), two_bases(folder)
    return written, bases, regraft.select(written, bases, progress=quiet)


def computed_by_a_run(written: dict[str, Any], base: str) -> int:
    seen: list[TrunkProgress] = []
    spec = RunSpec.resolve({**written, "base": base})
    train_local(spec, progress=lambda event: seen.append(event) if isinstance(event, TrunkProgress) else None)
    return seen[-1].total if seen else 0


@pytest.mark.slow
def test_a_run_that_follows_finds_every_row_that_was_read(selected: tuple[dict[str, Any], list[str], Any]) -> None:
    written, bases, outcome = selected
    assert rows_of_bases(outcome) == {"base-1": (60, 0), "base-2": (60, 0)}
    for method in ({"type": "freeze", "depth": 1}, HEADS):
        for base in bases:
            # The 30 evaluation rows chose nothing: the run computes them, and none of the 60 others.
            assert computed_by_a_run({**written, "method": method}, base) in (30, 0)
    again = regraft.select(written, bases, fresh=True, progress=quiet)
    assert rows_of_bases(again) == {"base-1": (0, 60), "base-2": (0, 60)}
    assert [one["scores"] for one in again.bases] == [one["scores"] for one in outcome.bases]


@pytest.mark.slow
def test_after_warm_a_run_computes_nothing(tmp_path: Path) -> None:
    written, bases = spec_in(tmp_path), two_bases(tmp_path)
    outcome = regraft.select(written, bases, sample=20, warm=True, progress=quiet)
    assert outcome.rows == {"sample": 20, "train": 60, "eval": 30}
    assert computed_by_a_run(written, outcome.base) == 0


@pytest.mark.slow
def test_the_same_command_returns_what_was_decided(selected: tuple[dict[str, Any], list[str], Any]) -> None:
    written, bases, outcome = selected
    again = regraft.select(written, bases, progress=quiet)
    assert again.already and (again.name, again.base) == (outcome.name, outcome.base)
    assert [one["scores"] for one in again.bases] == [one["scores"] for one in outcome.bases]
    store = open_store(written["store"])
    assert outcome.name in selections(store)
    known = read_selection(store, outcome.name)
    assert known is not None and known["outcome"]["base"] == outcome.base
    page = Path(outcome.page).read_text()
    assert "Layer by layer" in page and "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert regraft.select({**written, "method": "full"}, list(reversed(bases)), progress=quiet).name == outcome.name


@pytest.mark.slow
def test_evaluation_rows_choose_nothing(tmp_path: Path) -> None:
    written, bases = spec_in(tmp_path), two_bases(tmp_path)
    first = regraft.select(written, bases, progress=quiet)
    tickets(tmp_path / "eval.csv", 30, seed=77)
    second = regraft.select(written, bases, progress=quiet)
    assert not second.already and second.fingerprint != first.fingerprint
    assert [one["scores"] for one in second.bases] == [one["scores"] for one in first.bases]
    assert rows_of_bases(second) == {"base-1": (0, 60), "base-2": (0, 60)}


@pytest.mark.slow
def test_a_registered_model_is_a_base_as_any_other(selected: tuple[dict[str, Any], list[str], Any]) -> None:
    written, bases, _ = selected
    train_local(RunSpec.resolve({**written, "base": bases[0]}))
    outcome = regraft.select(written, [bases[0], "model:tiny"], warm=True, progress=quiet)
    found = next(one for one in outcome.bases if one["base"].startswith("model:"))
    assert found["base"].startswith("model:tiny@v")
    assert found["trained_for"].startswith("registered model tiny@v") and any(
        base in found["trained_for"] for base in bases
    )


KINDS = {
    "AutoModelForTokenClassification": "tags",
    "AutoModelForObjectDetection": "tags",
    "AutoModelForSemanticSegmentation": "tags",
}


@pytest.mark.slow
@pytest.mark.parametrize("auto", KINDS)
def test_words_boxes_and_masks_count_by_what_is_in_a_row(auto: str, tmp_path: Path) -> None:
    key = keys_of(auto)[0]
    base_of(family_of(key), tmp_path / "base")
    written = {**spec_of(task_of(key), "full", tmp_path), "store": str(tmp_path / "store")}
    try:
        outcome = regraft.select(written, [written["base"]], progress=quiet)
    except RegraftError as error:
        assert "no label is in some of the training rows" in str(error)  # made-up rows may hold the same things
        return
    assert outcome.kind == KINDS[auto]


@pytest.mark.slow
def test_blocks_that_are_read_row_by_row_give_the_features_of_the_pass(tmp_path: Path) -> None:
    written = spec_in(tmp_path, rows=12)
    spec = RunSpec.resolve({**written, "compute": {**written["compute"], "trunk": "off"}})
    store = open_store(spec.store)
    store.begin()
    snapshot, chosen = build_snapshot(store, spec.task, spec.data), np.arange(12)
    work = SelectWork(store, spec, snapshot, chosen, quiet, tmp_path)
    site = base_site(work, find_base(store, spec.base), spec)
    features = base_features(site, spec, chosen, tmp_path)
    cuts = direct_cuts(site)
    assert features.kept == [] and features.note == "compute.trunk: off keeps nothing in the store"
    for row in (0, 7):
        values = direct_values(site, cuts, row)
        for depth, cut in zip(features.depths, cuts, strict=True):
            found = pooled(values[cut.read.key], cut.read).numpy()
            assert found == pytest.approx(depth.features[row], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("supported", ["tags", "numbers"])
def test_several_labels_and_numbers_are_ranked(supported: str, tmp_path: Path) -> None:
    written, bases = spec_in(tmp_path), two_bases(tmp_path)
    lines = (tmp_path / "train.csv").read_text().splitlines()[1:]
    marked = "labels" if supported == "tags" else "rating"
    cells = (
        {"light": "on", "money": "on|paid", "entry": "paid"} if supported == "tags" else dict(light=1, money=2, entry=4)
    )
    rows = [f"{text},{cells[label]}" for text, label in (line.rsplit(",", 1) for line in lines)]
    (tmp_path / "train.csv").write_text("\n".join([f"text,{marked}", *rows]) + "\n")
    task: Any = "text-multi-label" if supported == "tags" else {"type": "text-regression", "targets": [marked]}
    written = {**written, "task": task, "data": {"train": str(tmp_path / "train.csv"), "eval": 0.2}}
    outcome = regraft.select(written, bases, progress=quiet)
    assert outcome.kind == supported and len(outcome.bases) == 2


def refused(written: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one message of a command that was refused as a wrong request."""
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(written))
    code = main(["select", str(path), "--json", *more])
    found = json.loads(capsys.readouterr().out)
    assert code == 2 and "error" in found
    return str(found["error"]["message"])


def one_row_a_class(folder: Path) -> None:
    rows = [f"a lamp was new {number},c{number}" for number in range(12)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")


def rows_alike(folder: Path) -> None:
    rows = [f"a lamp was new,c{number % 2}" for number in range(12)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "message"), [(one_row_a_class, "has one row"), (rows_alike, "all training rows are alike")]
)
def test_rows_that_leave_nothing_to_tell_apart(
    made: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, bases = spec_in(tmp_path), two_bases(tmp_path)
    made(tmp_path)
    written["data"] = {"train": str(tmp_path / "train.csv"), "eval": str(tmp_path / "train.csv"), "bad_rows": "skip"}
    assert message in refused(written, tmp_path, capsys, "--bases", ",".join(bases))


def test_bases_that_cannot_be_used_are_named_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = spec_in(tmp_path, rows=12)
    (tmp_path / "empty").mkdir()
    message = refused(written, tmp_path, capsys, "--bases", f"{tmp_path / 'empty'},{tmp_path / 'absent'}/x/y")
    assert str(tmp_path / "empty") in message and str(tmp_path / "absent") in message
    assert "no base is named" in refused(written, tmp_path, capsys)
    assert "allowed is 8 or more" in refused(written, tmp_path, capsys, "--bases", "a,b", "--sample", "3")


@pytest.mark.slow
def test_a_base_of_another_medium_is_refused_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, bases = spec_in(tmp_path), two_bases(tmp_path)
    strange = base_of("mobilenet_v2", tmp_path / "strange").reference
    message = refused(written, tmp_path, capsys, "--bases", f"{bases[0]},{strange}")
    assert str(strange) in message and bases[0] not in message
    outcome = regraft.select(written, [*bases, strange], skip_bad=True, progress=quiet)
    assert sorted(Path(one["base"]).name for one in outcome.bases) == ["base-1", "base-2"]


@pytest.mark.slow
@pytest.mark.parametrize("key", [name for name in Task.names() if Task.lookup(name).random_inputs])
def test_a_task_without_a_label_a_row_says_so(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base_of(family_of(key), tmp_path / "base")
    written = {**spec_of(task_of(key), "full", tmp_path), "store": str(tmp_path / "store")}
    assert "has no label of that kind" in refused(written, tmp_path, capsys, "--bases", written["base"])
