"""`regraft.train` accepts a spec in every form, and `regraft.load` finds the store as the commands do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import regraft
import regraft.cluster.train
from doubles.fake_training import DOCUMENT, FakeTraining
from regraft.errors import SpecError
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """A fake of the module that training is imported from."""
    found = FakeTraining()
    monkeypatch.setattr(regraft.cluster.train, "train", found)
    return found


@pytest.mark.parametrize("form", ["path", "text", "mapping", "spec"])
def test_a_spec_may_be_a_file_a_mapping_or_an_object(form: str, spec: Path, fake: FakeTraining) -> None:
    given: Any = {"path": spec, "text": str(spec), "mapping": DOCUMENT, "spec": RunSpec.resolve(DOCUMENT)}[form]
    outcome = regraft.train(given, overrides={"training.lr": 0.5}, fresh=True)
    assert outcome.model == "tickets"
    found, options = fake.calls[-1]
    assert found.training.lr == 0.5
    assert options == {"fresh": True, "address": None}


def test_a_wrong_override_is_refused_before_anything_starts(spec: Path, fake: FakeTraining) -> None:
    with pytest.raises(SpecError, match="Did you mean 'lr'"):
        regraft.train(spec, overrides={"training.lrr": 0.5})
    assert fake.calls == []


def test_the_store_of_load_is_the_argument_then_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Predictor, "open", lambda *args, **options: asked.append((*args, options)))
    regraft.load("tickets@production")
    monkeypatch.setenv("REGRAFT_STORE", "s3://bucket")
    regraft.load("tickets", plugins=[tmp_path])
    regraft.load("tickets", store="here")
    assert [call[0] for call in asked] == ["./regraft-store", "s3://bucket", "here"]
    assert asked[1][1:] == ("tickets", {"plugins": [tmp_path]})
