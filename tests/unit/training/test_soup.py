"""A soup: the greedy average of the best checkpoints, never worse than the best of them on evaluation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import regraft
from regraft.data.kept_features import FILE
from regraft.errors import RequestError, SpecError
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints, ranked
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training import session
from regraft.training.session import train_local
from regraft.training.soup import MeanDelta
from support.processes import on_ranks
from support.tiny import document

SOUP = 0
"""A seed with which an average is better than the best checkpoint."""
SETTINGS: dict[str, Any] = {"rows": 60, "eval_rows": 45, "epochs": 6, "lr": 3e-2, "method": "feature-extraction"}


def trained(folder: Path, **training: Any) -> tuple[Any, RunSpec, list[str]]:
    written = document(folder, **{**SETTINGS, **training})
    spec, notes = RunSpec.resolve(written), list[str]()
    outcome = train_local(spec, progress=lambda event: notes.append(str(event.document().get("message", ""))))
    return outcome, spec, [text for text in notes if "soup" in text]


@pytest.mark.parametrize("seed", [SOUP, 2])
def test_a_soup_is_never_below_its_best_member(seed: int, tmp_path: Path) -> None:
    outcome, spec, notes = trained(tmp_path, soup=4, seed=seed)
    assert len(notes) == 1
    checkpoints = Checkpoints(open_store(spec.store), outcome.run)
    valid = checkpoints.valid()
    plain = ranked([saved for saved in valid if not saved.meta.get("soup")], "accuracy", "max")
    soups = [saved for saved in valid if saved.meta.get("soup")]
    best = plain[0].meta["metrics"]["accuracy"]
    assert outcome.metrics["accuracy"] >= best
    meta = Registry(open_store(spec.store)).version("tiny").meta
    if not soups:
        assert "no soup" in notes[0] and "soup" not in meta["lineage"] and outcome.metrics["accuracy"] == best
        return
    assert outcome.metrics["accuracy"] > best and meta["lineage"]["soup"] == soups[0].meta["soup"]
    by_step = {saved.step: saved for saved in plain}
    deltas = [
        load_file(checkpoints.open(by_step[step], tmp_path / "files") / "delta.safetensors")
        for step in soups[0].meta["soup"]
    ]
    found = load_file(checkpoints.open(soups[0], tmp_path / "files") / "delta.safetensors")
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, torch.stack([delta[name] for delta in deltas]).mean(dim=0))
    evaluated = regraft.evaluate(
        "tiny", tmp_path / "eval.csv", tmp_path / "out", store=spec.store, resamples=0
    ).document
    assert evaluated["metrics"]["accuracy"] == pytest.approx(outcome.metrics["accuracy"])


@pytest.mark.slow
def test_a_finished_run_with_a_soup_is_returned_as_it_is(tmp_path: Path) -> None:
    first, spec, _ = trained(tmp_path, soup=3)
    again = train_local(spec)
    assert (again.version, again.metrics, again.already) == (first.version, first.metrics, True)


def test_a_crash_before_registration_makes_no_second_soup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(session, "register", lambda prepared: (_ for _ in ()).throw(OSError("the power failed")))
        with pytest.raises(OSError, match="power"):
            trained(tmp_path, soup=4, seed=SOUP)
    outcome, spec, notes = trained(tmp_path, soup=4, seed=SOUP)
    soups = [saved for saved in Checkpoints(open_store(spec.store), outcome.run).valid() if saved.meta.get("soup")]
    assert len(soups) == 1 and notes == []
    assert outcome.metrics == soups[0].meta["metrics"]


@pytest.mark.slow
def test_two_ranks_average_alike_and_are_not_below_their_best_member(tmp_path: Path) -> None:
    two = document(tmp_path, soup=4, seed=SOUP, **SETTINGS)
    on_ranks(2, two, str(tmp_path / "rows-seen"))
    store = open_store(str(tmp_path / "store"))
    version = Registry(store).version("tiny")
    valid = Checkpoints(store, version.meta["lineage"]["run"]).valid()
    plain = ranked([saved for saved in valid if not saved.meta.get("soup")], "accuracy", "max")
    assert version.meta["metrics"]["accuracy"] >= plain[0].meta["metrics"]["accuracy"]
    assert FILE in {entry.name for entry in version.manifest.files}


def test_without_a_soup_a_run_has_the_name_that_it_had(tmp_path: Path) -> None:
    written = document(tmp_path)
    plain = RunSpec.resolve(written)
    assert RunSpec.resolve({**written, "training": {**written["training"], "soup": 1}}).run == plain.run
    assert "soup" not in plain.model_dump(mode="json")["training"]
    assert RunSpec.resolve({**written, "training": {**written["training"], "soup": 3}}).run != plain.run


def test_whole_numbers_of_an_average_are_those_of_the_best() -> None:
    one = {"weight": torch.tensor([1.0, 3.0]), "count": torch.tensor(7)}
    other = {"weight": torch.tensor([2.0, 5.0]), "count": torch.tensor(9)}
    found = MeanDelta.of(one).with_delta(other).tensors()
    assert found["weight"].tolist() == [1.5, 4.0] and int(found["count"]) == 7


def test_a_soup_of_one_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"training\.soup averages checkpoints, of which method prototypes makes one"):
        RunSpec.resolve(document(tmp_path, method="prototypes", soup=2))
    searched = document(tmp_path, soup=2) | {
        "search": {"space": {"training.lr": {"choice": [1e-3, 1e-2]}}, "trials": 2}
    }
    with pytest.raises(RequestError, match=r"training\.soup averages the checkpoints of one run"):
        regraft.search(searched, progress=lambda event: None)
