"""The seed determines the trials of a search, and no point is tried twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from doubles.fake_pool import study
from regraft.spec.run import RunSpec
from regraft.spec.search import Draw
from regraft.tuning.protocol import Trial
from regraft.tuning.records import TrialRecord
from regraft.tuning.space import random_point
from regraft.tuning.study import Study
from unit.tuning.test_space import DOCUMENT

SPACE: dict[str, Any] = {
    "method": {"choice": ["feature-extraction", {"type": "freeze", "depth": 4}, "lora"]},
    "training.lr": {"loguniform": [1e-5, 1e-1]},
    "training.batch_size": {"randint": [8, 64]},
}


def spec_of(**search: Any) -> RunSpec:
    """Return a spec with this search section."""
    return RunSpec.resolve({**DOCUMENT, "search": {"space": SPACE, **search}})


def all_of(found: Study) -> list[Trial]:
    """Return every trial of a study."""
    trials = []
    while (suggested := found.suggest()) is not None:
        trials.append(suggested[0])
    return trials


def record_of(trial: Trial) -> TrialRecord:
    """Return the record of a trial as it is read after a restart."""
    return TrialRecord.read(
        json.loads(json.dumps(TrialRecord(trial.id, trial.number, dict(trial.overrides)).document()))
    )


def test_the_same_seed_gives_the_same_trials_and_another_gives_others() -> None:
    one, same, other = (all_of(study(spec_of(trials=20, seed=seed))) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert len({json.dumps(trial.overrides) for trial in one}) == 20
    assert all(1e-5 <= trial.overrides["training.lr"] <= 1e-1 for trial in one)


def test_a_search_that_goes_on_has_the_trials_that_it_would_have_had() -> None:
    spec = spec_of(trials=25)
    straight = all_of(study(spec))
    continued = study(spec)
    continued.restore([record_of(trial) for trial in straight[:11]])
    assert all_of(continued) == straight[11:]


def test_a_grid_is_gone_through_once() -> None:
    space = {"training.lr": {"grid": [1e-4, 1e-3]}, "training.epochs": {"randint": [1, 3]}}
    found = all_of(study(spec_of(space=space, sampler="grid")))
    assert len(found) == 6 == len({json.dumps(trial.overrides) for trial in found})


def test_random_points_of_a_small_space_end_when_all_were_there() -> None:
    space = {"training.epochs": {"choice": [1, 2, 3]}, "training.seed": {"choice": [0, 1]}}
    found = study(spec_of(space=space, trials=50))
    assert len(all_of(found)) == 6
    assert found.exhausted


def test_points_that_differ_only_in_what_does_not_apply_are_one() -> None:
    space = {"method": {"choice": ["feature-extraction", "freeze"]}, "method.depth": {"choice": [1, 2]}}
    found = [trial.overrides for trial in all_of(study(spec_of(space=space, sampler="grid")))]
    assert found == [
        {"method": "feature-extraction"},
        {"method": "freeze", "method.depth": 1},
        {"method": "freeze", "method.depth": 2},
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_value_of_a_choice_is_drawn_as_often_as_another(seed: int) -> None:
    space = {
        "method": Draw(choice=("a", "b", "c")),
        "training.seed": Draw(choice=(1, 2)),
        "training.lr": Draw(loguniform=(1e-4, 1e-1)),
    }
    points = [random_point(space, seed, turn) for turn in range(12)]
    assert Counter(point["method"] for point in points[:3]) == Counter("abc")
    assert Counter(point["method"] for point in points) == {"a": 4, "b": 4, "c": 4}
    assert Counter(point["training.seed"] for point in points) == {1: 6, 2: 6}
    assert len({tuple(point["method"] for point in points[at : at + 3]) for at in range(0, 12, 3)}) > 1
    assert points == [random_point(space, seed, turn) for turn in range(12)]


def test_a_search_at_random_begins_with_the_spec_s_own_values() -> None:
    """A search therefore ends no worse than training the spec."""
    space = {**SPACE, "method.depth": {"choice": [1, 2]}, "training.batch_size": {"randint": [64, 128]}}
    space["method"] = {"choice": ["lora", "freeze", {"type": "freeze", "depth": 4}]}
    spec = RunSpec.resolve({**DOCUMENT, "training": {"lr": 2e-3}, "search": {"space": space, "trials": 6}})
    trials = [trial.overrides for trial in all_of(study(spec))]
    assert [(trial["method"], trial["training.lr"]) for trial in trials[:3]] == [
        ("lora", 2e-3),
        ("freeze", 2e-3),
        ({"type": "freeze", "depth": 4}, 2e-3),
    ]
    assert trials[1]["method.depth"] in (1, 2), "what the spec does not say is drawn"
    assert all(64 <= trial["training.batch_size"] <= 128 for trial in trials), "what the space has not is drawn"
    assert 2e-3 not in [trial["training.lr"] for trial in trials[3:]]
