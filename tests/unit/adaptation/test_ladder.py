"""The ladder of an adaptation: its names, its order, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.adaptation.ladder import LABELLED, ladder_of
from regraft.adaptation.runs import check_adaptable, source_only, with_loss, with_target_labels
from regraft.adaptation.session import AdaptOptions, adaptation_name
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from support.tiny import document, tickets


def spec_in(folder: Path, **changes: Any) -> RunSpec:
    written = document(folder, rows=12, eval_rows=6)
    target = tickets(folder / "target.csv", 9, seed=5)
    return RunSpec.resolve({**written, "data": {**written["data"], "target": str(target)}}, overrides=changes)


def test_the_usual_ladder_goes_from_cheap_to_dear(tmp_path: Path) -> None:
    assert ladder_of(spec_in(tmp_path), None).names == ("prior", "coral", "zscore", "mcc")
    few = {"data.target_labels": str(tmp_path / "target.csv")}
    assert ladder_of(spec_in(tmp_path, **few), None).names[-1] == LABELLED


def test_a_loss_of_the_spec_is_tried_with_its_own_settings(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, losses=[{"type": "mcc", "weight": 0.3}, "l2-sp"])
    ladder = ladder_of(spec, ["mcc"])
    assert ladder.losses[0].loss.weight == 0.3
    assert [loss.key() for loss in source_only(spec).losses] == ["l2-sp"]
    assert ladder_of(spec_in(tmp_path, losses=["dann"]), None).names[-1] == "dann"


def test_adversaries_and_alignment_are_tried_where_they_are_asked_for(tmp_path: Path) -> None:
    ladder = ladder_of(spec_in(tmp_path), ["cdan", "coral-loss", "zscore"])
    assert ladder.names == ("zscore", "cdan", "coral-loss")
    assert [rung.loss.key() for rung in ladder.losses] == ["cdan", "coral"]


@pytest.mark.parametrize(
    ("changes", "names", "expected"),
    [
        ({}, ["mc"], "Unknown candidate 'mc'. Did you mean 'mcc'"),
        ({}, [LABELLED], "name their file in data.target_labels"),
        ({"method": "feature-extraction"}, ["cdan"], "cdan moves the features that the head reads"),
        ({"training.accumulation": 2}, ["mcc"], "training.accumulation: 2"),
        ({"method": "prototypes"}, ["mcc"], "needs gradient steps"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_name(
    changes: dict[str, Any], names: list[str], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=expected):
        ladder_of(spec_in(tmp_path, **changes), names)


def test_a_usual_loss_that_cannot_be_trained_is_left_out(tmp_path: Path) -> None:
    assert ladder_of(spec_in(tmp_path, method="prototypes"), None).losses == ()


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"data.target": None}, "data.target"), ({"task": "text-multi-label"}, "task")],
)
def test_a_spec_that_cannot_be_adapted_is_refused_by_its_key(changes: dict[str, Any], key: str, tmp_path: Path) -> None:
    if key == "task":
        changes = {**changes, "data.columns": {"labels": "label"}}
    with pytest.raises(RequestError) as refused:
        check_adaptable(spec_in(tmp_path, **changes))
    assert refused.value.where == key


def test_runs_read_what_they_are_for(tmp_path: Path) -> None:
    spec = spec_in(tmp_path, **{"data.target_labels": str(tmp_path / "target.csv"), "losses": ["mcc"]})
    plain, labelled = source_only(spec), with_target_labels(spec)
    assert plain.run == RunSpec.resolve(document(tmp_path)).run, "a run that was finished before is found"
    assert labelled.data.target is None and labelled.data.target_labels is not None and not labelled.losses
    lossy = with_loss(spec, spec.losses[0], "model:tiny@v1", rows=12)
    assert lossy.data.target_labels is None and lossy.base == "model:tiny@v1" and lossy.reads_target
    assert lossy.training.eval_steps == 4, "the last step counts"
    assert lossy.training.checkpoint_steps == 2, "a killed run goes on from its last epoch"


def test_another_ladder_is_another_adaptation(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    names = {adaptation_name(spec, AdaptOptions(ladder)) for ladder in (None, ("mcc",), ("zscore",), ("zscore", "mcc"))}
    assert len(names) == 4
    assert adaptation_name(spec, AdaptOptions(check="rows.csv")) == adaptation_name(spec, AdaptOptions())
