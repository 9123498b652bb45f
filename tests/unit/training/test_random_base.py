"""A run may begin with random weights of its base's configuration: the same from the same seed, wherever it runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from regraft import load
from regraft.bases.derived_base import find_base
from regraft.bases.locate import Base
from regraft.contracts import Event, Note
from regraft.errors import RequestError, SpecError
from regraft.spec.run import RunSpec
from regraft.store.machine_cache import cache_folder
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from support.tiny import document


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))


def weights(base: Base) -> dict[str, torch.Tensor]:
    return load_file(base.path / "model.safetensors")


def found(folder: Path, reference: str) -> Base:
    return find_base(open_store(str(folder / "store")), reference)


def test_the_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    written = str(tmp_path / "base")
    document(tmp_path, rows=24)
    first = found(tmp_path, f"random:3:{written}")
    values = weights(first)
    given = weights(found(tmp_path, written))
    assert not any(torch.equal(values[name], given[name]) for name in values if "query.weight" in name)
    shutil.rmtree(cache_folder("bases"))
    torch.manual_seed(99)
    again = found(tmp_path, f"random:3:{written}")
    assert again.hash == first.hash
    assert all(torch.equal(value, values[name]) for name, value in weights(again).items())
    other = found(tmp_path, f"random:4:{written}")
    assert other.hash != first.hash
    assert (first.path / "config.json").read_bytes() == (tmp_path / "base" / "config.json").read_bytes()


def notes(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Note)]


def test_a_run_begins_with_them_and_its_version_is_served(tmp_path: Path) -> None:
    events: list[Event] = []
    spec = RunSpec.resolve(document(tmp_path, rows=24, eval_rows=12, epochs=1, init="random", seed=5))
    outcome = train_local(spec, progress=events.append)
    assert any("training begins with random weights, from seed 5" in text for text in notes(events))
    meta = Registry(open_store(spec.store)).version("tiny").meta
    assert meta["base"]["reference"] == f"random:5:{tmp_path / 'base'}"
    assert load("tiny", store=spec.store).predict(["my lamp is not on"])
    assert train_local(spec).already and outcome.run == spec.run


def test_a_folder_with_a_configuration_alone_is_a_random_base(tmp_path: Path) -> None:
    written = document(tmp_path, rows=24, eval_rows=12, epochs=1)
    given = train_local(RunSpec.resolve({**written, "training": {**written["training"], "init": "random"}}))
    (tmp_path / "base" / "model.safetensors").unlink()
    events: list[Event] = []
    alone = train_local(RunSpec.resolve({**written, "name": "alone"}), progress=events.append)
    assert any("the base has a configuration alone" in text for text in notes(events))
    store = open_store(str(tmp_path / "store"))
    metas = [Registry(store).version(one.model).meta for one in (given, alone)]
    assert metas[0]["base"]["hash"] == metas[1]["base"]["hash"]
    assert metas[0]["metrics"] == metas[1]["metrics"] and metas[0]["delta_sha256"] == metas[1]["delta_sha256"]


@pytest.mark.parametrize("method", ["feature-extraction", {"type": "lora", "rank": 2}, "prototypes"])
def test_random_weights_that_would_stay_are_refused(tmp_path: Path, method: Any) -> None:
    written = document(tmp_path, rows=24, method=method)
    with pytest.raises(SpecError, match="leaves weights as they begin") as caught:
        RunSpec.resolve({**written, "training": {**written["training"], "init": "random"}})
    assert len(caught.value.problems) == 1
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="holds a configuration and no weights"):
        train_local(RunSpec.resolve(written))


def test_names_of_runs_stay_as_they_were(tmp_path: Path) -> None:
    written = document(tmp_path, rows=24)
    plain = RunSpec.resolve(written)
    said, other = (
        RunSpec.resolve({**written, "training": {**written["training"], "init": init}})
        for init in ("pretrained", "random")
    )
    assert plain.run == said.run != other.run
    assert "init" not in plain.model_dump(mode="json")["training"]
    with pytest.raises(SpecError, match="write the base itself"):
        RunSpec.resolve({**written, "base": f"random:0:{written['base']}"})
