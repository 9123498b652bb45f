"""Which trials become versions, why others do not, and what is said where an earlier version is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doubles.fake_pool import FakePool, a_spec, searched
from regraft.contracts import Note
from regraft.errors import RequestError, SpecError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.tuning.driver.finish import SearchOutcome
from regraft.tuning.driver.prepare import search_name
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.records import TrialRecord, best_first

RATES = {"training.lr": {"loguniform": [1e-5, 1e-1]}}


def again(folder: Path, register: Any, **search: Any) -> SearchOutcome:
    """Run the same search with another `register`."""
    return searched(a_spec(folder, {"space": RATES, "trials": 6, **search, "register": register}), FakePool())


def ranked(folder: Path) -> list[TrialRecord]:
    """Return the stored trials, best first."""
    spec = a_spec(folder, {"space": RATES, "trials": 6})
    records = SearchStore(open_store(spec.store), search_name(spec)).trials()
    return best_first(records, {"name": "accuracy", "mode": "max"})


def versions(spec: RunSpec) -> dict[str, str]:
    """Return the trial of each version."""
    found = Registry(open_store(spec.store)).versions("tiny")
    return {one.version: one.meta["lineage"]["search"]["trial"] for one in found}


def test_a_trial_is_registered_by_its_name_and_no_other(tmp_path: Path) -> None:
    again(tmp_path, "none", keep=6)
    third = ranked(tmp_path)[2].id
    outcome = again(tmp_path, third, keep=6)
    assert versions(a_spec(tmp_path, {"space": RATES})) == {"v1": third}
    assert [(one.trial, one.reference) for one in outcome.added] == [(third, "tiny@v1")]
    assert outcome.version is None and outcome.winner == ranked(tmp_path)[0].id
    assert again(tmp_path, third, keep=6).added == (), "it is registered already"


def test_a_number_is_how_many_of_the_best_and_all_of_them_are_named(tmp_path: Path) -> None:
    outcome = again(tmp_path, 3)
    best = [record.id for record in ranked(tmp_path)[:3]]
    assert [one.trial for one in outcome.added] == best[::-1], "the best is the newest"
    assert [one.reference for one in outcome.added] == ["tiny@v1", "tiny@v2", "tiny@v3"]
    assert [one["reference"] for one in outcome.document()["registered"]] == ["tiny@v1", "tiny@v2", "tiny@v3"]


def test_a_version_that_scores_worse_than_the_newest_is_said_to_be(tmp_path: Path) -> None:
    first = again(tmp_path, "best", keep=6)
    assert [one.note for one in first.added] == [""]
    second, third = ranked(tmp_path)[1:3]
    outcome = again(tmp_path, 3, keep=6)
    assert [one.trial for one in outcome.added] == [third.id, second.id]
    best = first.metrics["accuracy"]
    for one in outcome.added:
        assert f"{one.reference} scores worse than tiny@v1, the newest before it (accuracy {best:.4f})" in one.note
        assert "regraft models promote tiny@v1 production" in one.note
    assert outcome.added[1].value == pytest.approx((second.best or {})["accuracy"])


def test_as_many_checkpoints_stay_as_are_to_be_registered(tmp_path: Path) -> None:
    assert len(again(tmp_path, 5, keep=1).added) == 5


def test_what_keep_left_no_checkpoint_of_is_explained_by_keep(tmp_path: Path) -> None:
    again(tmp_path, "none", keep=2)
    last = ranked(tmp_path)[-1].id
    with pytest.raises(RequestError, match=r"search\.keep is 2") as refused:
        again(tmp_path, last, keep=2)
    assert "quota" not in str(refused.value)
    notes: list[str] = []
    spec = a_spec(tmp_path, {"space": RATES, "trials": 6, "keep": 2, "register": 6})
    searched(spec, FakePool(), progress=lambda event: notes.append(event.message) if isinstance(event, Note) else None)
    missing = [note for note in notes if "is not registered" in note]
    assert len(missing) == 4 and all("search.keep is 2" in note and "quota" not in note for note in missing)


def test_a_trial_that_does_not_exist_is_refused_before_any_runs(tmp_path: Path) -> None:
    pool = FakePool()
    with pytest.raises(RequestError, match="it has no trials yet"):
        searched(a_spec(tmp_path, {"space": RATES, "trials": 2, "register": "t0001"}), pool)
    assert pool.ran == []
    again(tmp_path, "none")
    with pytest.raises(RequestError, match="its trials are t0000 to t0005"):
        again(tmp_path, "t0011")


def test_a_trial_whose_version_was_deleted_can_be_registered_again(tmp_path: Path) -> None:
    again(tmp_path, "best")
    spec = a_spec(tmp_path, {"space": RATES})
    Registry(open_store(spec.store)).delete("tiny", "v1")
    assert [one.reference for one in again(tmp_path, "best").added] == ["tiny@v2"]


@pytest.mark.parametrize("written", ["0", "all", 0, -1, True, "11", "t11", ["t0001"], None])
def test_anything_else_is_refused_with_all_that_is_allowed(written: object, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"allowed are none, best, a number from 1 on .* or a trial such as t0011"):
        a_spec(tmp_path, {"space": RATES, "register": written})
