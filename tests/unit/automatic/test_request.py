"""What `regraft auto` is asked for: times, names and bases, and where bases are looked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from regraft.automatic.base_candidates import (
    NamedBase,
    base_candidates,
    bases_in_cache,
    bases_in_mirror,
    bases_in_packages,
)
from regraft.automatic.base_choice import BaseChoice, known_choice, stored_choice
from regraft.automatic.clock import BudgetClock
from regraft.automatic.request import AutoRequest, name_of, seconds_of
from regraft.automatic.run_spec import held_out_share
from regraft.automatic.usable_bases import CheckedBase
from regraft.bases.derived_base import find_base
from regraft.contracts import Task
from regraft.errors import RequestError, SpecError
from regraft.spec.user_settings import VARIABLE, user_settings
from regraft.spec.written_bases import bases_of
from regraft.store.objects import open_store
from support.tiny import tiny_bert

TIMES = {"90": 90, "90s": 90, "10m": 600, "1.5h": 5400, "2 min": 120, 30: 30, 0.5: 0.5}


@pytest.mark.parametrize("written", TIMES)
def test_a_time_has_a_unit_or_is_in_seconds(written: str | float) -> None:
    assert seconds_of(written) == TIMES[written]


@pytest.mark.parametrize("written", ["", "soon", "-5m", "0", "inf", "10x", True])
def test_what_is_no_time_is_refused(written: str) -> None:
    with pytest.raises(RequestError, match="such as 90s, 10m or 2h"):
        seconds_of(written)


def test_a_model_is_named_after_its_data() -> None:
    names = [name_of(data) for data in ("jobs/Tickets Train.csv.gz", "s3://bucket/photos/", "/data/x#train", "...")]
    assert names == ["tickets-train", "photos", "x", "model"]


def test_the_budget_is_no_part_of_what_is_continued() -> None:
    one, other = (AutoRequest("a.csv", "store", budget=budget) for budget in (60.0, 600.0))
    assert one.key == other.key != AutoRequest("a.csv", "store", task="x").key


def test_bases_have_commas_between_or_are_lines_of_a_file(tmp_path: Path) -> None:
    listed = tmp_path / "bases.txt"
    listed.write_text("- one/a\none/b  # the small one\n\none/a\n")
    assert bases_of(str(listed)) == bases_of("one/a, one/b") == ("one/a", "one/b")
    assert bases_of(None) is None
    with pytest.raises(RequestError, match="no base is written"):
        bases_of(" , ")


def base_at(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({}))
    (folder / "model.safetensors").write_bytes(b"")


def test_bases_are_found_in_packages_in_a_mirror_and_in_the_cache(tmp_path: Path) -> None:
    base_at(tmp_path / "site-packages" / "one_model" / "model")
    base_at(tmp_path / "site-packages" / "one_model-1.0.dist-info")
    base_at(tmp_path / "mirror" / "other" / "two")
    base_at(tmp_path / "cache" / "models--org--three" / "snapshots" / "abc")
    (tmp_path / "cache" / "models--org--empty" / "snapshots" / "abc").mkdir(parents=True)
    places = [tmp_path / "site-packages", tmp_path, tmp_path / "absent"]
    assert list(bases_in_packages(places)) == ["package:one_model/model"]
    assert list(bases_in_mirror(str(tmp_path / "mirror"))) == ["other/two"]
    assert list(bases_in_mirror(None)) == []
    assert list(bases_in_cache(tmp_path / "cache")) == ["org/three"]


def test_the_settings_come_first_and_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "settings.yaml"))
    assert user_settings().bases == ()
    (tmp_path / "settings.yaml").write_text("bases: [org/first, /models/second]\n")
    assert [one.reference for one in base_candidates(None)][:2] == ["org/first", "/models/second"]
    assert [one.reference for one in base_candidates(("org/only",))] == ["org/only"]
    (tmp_path / "settings.yaml").write_text("base: [org/first]\n")
    with pytest.raises(SpecError, match="bases"):
        user_settings()
    (tmp_path / "settings.yaml").write_text("- org/first\n")
    with pytest.raises(RequestError, match="a mapping of keys"):
        user_settings()


def test_a_choice_holds_while_the_same_bases_are_there(tmp_path: Path) -> None:
    found = [checked(tmp_path, name, seed) for seed, name in enumerate(("one", "other"))]
    stored = stored_choice(BaseChoice(found[1], "ahead", [{"reference": "x"}]), found, "rows")
    assert json.loads(json.dumps(stored)) == stored
    known = known_choice(stored, found)
    assert known is not None and known.verdict is found[1] and known.why == "ahead"
    assert known_choice({}, found) is None and known_choice(stored, found[:1]) is None
    assert known_choice(stored, [found[1], found[0]]) is None, "the preferred one is another"
    changed = replace(found[0], base=found[1].base)
    assert known_choice(stored, [changed, found[1]]) is None


def checked(folder: Path, name: str, seed: int) -> CheckedBase:
    place = str(tiny_bert(folder / name, seed=seed))
    task = Task.lookup("text-classification")()
    return CheckedBase(NamedBase(place, "named by --bases"), "", find_base(open_store("/nowhere"), place), task, 1)


def test_where_bases_were_found_names_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_at(tmp_path / "mirror" / "other" / "two")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "settings.yaml"))
    monkeypatch.setenv("REGRAFT_HUB_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "settings.yaml").write_text("bases: [org/first]\n")
    found = {one.reference: one.found for one in base_candidates(None)}
    assert {"org/first", "other/two"} <= found.keys() and not any(str(tmp_path) in text for text in found.values())


def test_shares_hold_out_some_eighty_rows() -> None:
    assert [held_out_share(rows) for rows in (10, 400, 800, 1_000_000)] == [0.2, 0.2, 0.1, 0.05]


def test_seconds_of_earlier_attempts_count() -> None:
    fresh, again = BudgetClock(100.0), BudgetClock(100.0, 40.0)
    assert fresh.for_search() == pytest.approx(55, abs=1) and again.for_search() == pytest.approx(15, abs=1)
