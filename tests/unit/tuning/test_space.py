"""Validation of the section `search`, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doubles.fake_pool import a_spec
from regraft.bases.locate import locate
from regraft.errors import RequestError, SpecError
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from regraft.tuning.model_checks import check_methods
from regraft.tuning.space import methods, overrides_at
from regraft.tuning.validate import check_search
from support.tiny import document

DOCUMENT: dict[str, Any] = {
    "name": "tickets",
    "base": "some/base",
    "task": "text-classification",
    "method": "feature-extraction",
    "data": {"train": "train.csv"},
}
RATES = {"training.lr": {"loguniform": [1e-5, 1e-3]}}


def spec_with(space: dict[str, Any], **fields: Any) -> RunSpec:
    """Return a spec that is valid except possibly for its space."""
    return RunSpec.resolve({**DOCUMENT, **fields, "search": {"space": space}})


def test_a_run_is_the_same_with_and_without_a_search() -> None:
    plain, searching = RunSpec.resolve(DOCUMENT), spec_with(RATES)
    assert searching.run == plain.run
    assert "search" not in plain.model_dump(mode="json")
    assert RunSpec.resolve(searching.model_dump(mode="json")) == searching


def test_training_a_spec_with_a_search_keeps_none_of_it(tmp_path: Path) -> None:
    written = document(tmp_path, method="feature-extraction", epochs=1)
    outcome = train_local(RunSpec.resolve({**written, "search": {"space": RATES}}))
    stored = (tmp_path / "store" / "runs" / outcome.run / "spec.yaml").read_text()
    assert "search" not in stored
    assert outcome.run == RunSpec.resolve(written).run


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "is empty"),
        ({"training.lr": [1, 2]}, "is written; allowed is one of choice"),
        ({"training.lr": {"unifor": [1, 2]}}, "Did you mean 'uniform'"),
        ({"training.lr": {"choice": [1], "grid": [2]}}, "write exactly one"),
        ({"training.lr": {"uniform": [2, 1]}}, "the smaller number comes first"),
        ({"training.lr": {"loguniform": [0, 1]}}, "must be above 0"),
    ],
)
def test_a_malformed_space_is_refused_when_it_is_read(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_with(space)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"training.lrr": {"choice": [1]}}, r"search\.space\.training\.lrr: .*Did you mean 'lr'"),
        ({"training.lr": {"choice": [0.1, -1]}}, r"search\.space\.training\.lr: .*-1 is written.*greater than 0"),
        ({"training.dropout": {"uniform": [0, 2]}}, "less than 1"),
        ({"training.epochs": {"randint": [0, 3]}}, "greater than or equal to 1"),
        ({"method.depth": {"choice": [1]}}, "method feature-extraction has no such field"),
        ({"method": {"choice": ["lora"]}, "method.depth": {"choice": [1]}}, r"no method of the space \(lora\)"),
        ({"method": {"choice": ["loraa"]}}, "Did you mean 'lora'"),
        ({"method": {"choice": ["freeze"]}, "method.depth": {"choice": [-1]}}, "0 or more"),
        ({"base": {"uniform": [0, 1]}}, r"search\.space\.base: a range is written; allowed is a list of bases"),
        ({"base": ["a", "b", "a"]}, r"search\.space\.base: a is written 2 times"),
        ({"base": ["a", 3]}, r"search\.space\.base: base: 3 is written"),
        ({"training.init": {"choice": ["random"]}}, "cannot vary within a search"),
        ({"data.eval": {"choice": [0.1]}}, "cannot vary within a search"),
        ({"store": {"choice": ["x"]}}, "cannot vary within a search"),
    ],
)
def test_what_no_trial_could_be_is_refused_with_its_path(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_search(spec_with(space))


def test_all_problems_of_a_space_are_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        check_search(spec_with({"training.lr": {"choice": [-1]}, "training.epoch": {"choice": [1]}}))
    assert len(caught.value.problems) == 2


def test_a_spec_without_a_search_or_with_many_workers_is_refused() -> None:
    with pytest.raises(RequestError, match="no section `search`"):
        check_search(RunSpec.resolve(DOCUMENT))
    with pytest.raises(RequestError, match="a trial of a search trains in one worker"):
        check_search(spec_with(RATES, compute={"workers": 2}))


def test_a_grid_needs_values_that_can_be_counted() -> None:
    with pytest.raises(SpecError, match="is a range"):
        RunSpec.resolve({**DOCUMENT, "search": {"space": RATES, "sampler": "grid"}})


def test_augmentation_below_a_forced_cache_is_refused() -> None:
    images = {**DOCUMENT, "task": "image-classification", "compute": {"trunk": "disk"}}
    with pytest.raises(SpecError, match=r"compute\.trunk: disk is written with data\.augment"):
        check_search(RunSpec.resolve({**images, "search": {"space": {"data.augment": {"choice": ["off", "light"]}}}}))
    with pytest.raises(SpecError, match=r"compute\.trunk: disk is written with data\.augment"):
        check_search(
            RunSpec.resolve(
                {**images, "data": {"train": "x", "augment": "strong"}, "search": {"space": RATES}},
            )
        )


@pytest.mark.parametrize(
    ("search", "fields", "message"),
    [
        ({"space": {"method.depth": {"choice": [1, 9]}}}, {"method": "freeze"}, "9 is written; this base has 2 blocks"),
        ({"space": RATES, "quota_gb": 1e-6}, {}, "one checkpoint of method feature-extraction takes"),
        (
            {"space": {"method": {"choice": ["feature-extraction", "lora"]}}},
            {"compute": {"workers": 0, "trunk": "memory"}},
            "method lora freezes nothing",
        ),
        (
            {"space": {"training.dropout": {"choice": [0.0, 0.3]}}},
            {"compute": {"workers": 0, "trunk": "disk"}},
            "dropout 0.3, which lies below the cut",
        ),
    ],
)
def test_what_does_not_fit_the_base_is_refused(
    search: dict[str, Any], fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    spec = a_spec(tmp_path, search, **fields)
    check_search(spec)
    with pytest.raises(SpecError, match=message):
        check_methods(spec, locate(spec.base))
    assert not (tmp_path / "store").exists()


def test_the_depths_of_a_space_are_known_ahead(tmp_path: Path) -> None:
    space = {"method": {"choice": ["feature-extraction", "freeze", "lora"]}, "method.depth": {"choice": [1, "all"]}}
    spec = a_spec(tmp_path, {"space": space})
    assert check_methods(spec, locate(spec.base)) == (1, 2, "feature-extraction")


def test_a_field_that_a_method_lacks_or_writes_itself_is_left_out() -> None:
    spec = spec_with({"method": {"choice": ["lora"]}})
    frozen = {"type": "freeze", "depth": 4}
    assert overrides_at(spec, {"method.depth": 2, "method": "lora"}) == {"method": "lora"}
    assert overrides_at(spec, {"method.depth": 2, "method": frozen}) == {"method": frozen}
    found = overrides_at(spec, {"method.depth": 2, "method": "freeze"})
    assert list(found.items()) == [("method", "freeze"), ("method.depth", 2)]


def test_every_method_of_a_space_is_found_once() -> None:
    space = {"method": {"choice": ["feature-extraction", "freeze"]}, "method.depth": {"randint": [1, 3]}}
    found = [method.model_dump(mode="json") for method in methods(spec_with(space))]
    assert found == [{"type": "feature-extraction"}, *({"type": "freeze", "depth": depth} for depth in (1, 2, 3))]


def test_a_spec_without_a_search_refuses_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="search: the spec has no section `search`: write search: ") as caught:
        RunSpec.resolve(document(tmp_path)).searched()
    assert caught.value.exit_code == 2
